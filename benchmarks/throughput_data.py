"""Posts at ReDSM5's lengths, a tokenizer and a small checkpoint for `throughput.py`. No real text.

Lengths are lognormal with the mean (295 words) and about the maximum (6,990) of ReDSM5. The timed
sample takes posts at even quantiles of length, so that few posts have the distribution of many.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

MEAN_WORDS, SPREAD, MOST_WORDS = 295.0, 1.2, 6990
POSITIVE = 0.11
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
SHAPES: dict[str, dict[str, int]] = {
    "small": {
        "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 512, "position_buckets": 64,
    },
    "base": {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "position_buckets": 256, "vocab_size": 128100,
    },
}  # fmt: skip
"""`small` is what is timed whole; `base` has the size of DeBERTa-v3-base, for the fixed costs."""


def lexicon(rng: np.random.Generator, words: int = 5000) -> np.ndarray[Any, Any]:
    starts, vowels = list("bcdfghjklmnprstvwz"), list("aeiou")
    found: set[str] = set()
    while len(found) < words:
        syllables = rng.choice([1, 2, 3, 4], p=[0.22, 0.43, 0.25, 0.10])
        found.add("".join(rng.choice(starts) + rng.choice(vowels) for _ in range(syllables)))
    return np.array(sorted(found, key=lambda word: (len(word), word)))


def lengths(rng: np.random.Generator, posts: int) -> np.ndarray[Any, Any]:
    drawn = np.exp(math.log(MEAN_WORDS) - SPREAD**2 / 2 + SPREAD * rng.standard_normal(posts))
    drawn *= MEAN_WORDS / drawn.mean()
    return np.clip(np.round(drawn), 5, MOST_WORDS).astype(int)


def texts(rng: np.random.Generator, sizes: np.ndarray[Any, Any]) -> list[str]:
    """A text of each size in words, drawn by Zipf's law, in sentences."""
    words = lexicon(rng)
    chance = 1 / np.arange(1, len(words) + 1) ** 1.07
    chance /= chance.sum()
    made = []
    for size in sizes:
        drawn = words[rng.choice(len(words), size, p=chance)].tolist()
        sentences, at = [], 0
        while at < size:
            count = int(rng.integers(6, 22))
            sentences.append(" ".join(drawn[at : at + count]).capitalize() + ".")
            at += count
        made.append(" ".join(sentences))
    return made


def sample(posts: int, seed: int = 0) -> list[str]:
    """Posts at even quantiles of the length of 1,512, in random order."""
    rng = np.random.default_rng(seed)
    sizes = np.sort(lengths(rng, 1512))
    picked = sizes[((np.arange(posts) + 0.5) / posts * len(sizes)).astype(int)]
    return texts(rng, rng.permutation(picked))


def write(folder: Path, train_posts: int, eval_posts: int) -> None:
    """`pairs.csv`, `split.json` and the checkpoint `small` in `folder`."""
    from criteria_cli.data.criteria import load_criteria

    criteria = load_criteria("dsm5-mdd", folder)
    posts = sample(train_posts + eval_posts)
    rng = np.random.default_rng(1)
    rows = [
        (f"p{number:05}", text, criterion.id, int(rng.random() < POSITIVE or index == number % 9))
        for number, text in enumerate(posts)
        for index, criterion in enumerate(criteria)
    ]
    with (folder / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["post_id", "post", "DSM5_symptom", "groundtruth"])
        table.writerows(rows)
    held = sorted(rng.permutation(len(posts))[:eval_posts].tolist())
    (folder / "split.json").write_text(json.dumps({"eval": [f"p{n:05}" for n in held]}))
    checkpoint(folder / "small", "small", [*posts, *(criterion.text for criterion in criteria)])


def checkpoint(folder: Path, shape: str, corpus: list[str]) -> None:
    """A DeBERTa-v2 with random weights, one logit, and a Unigram tokenizer of `corpus`."""
    import torch
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )  # fmt: skip
    from transformers import (
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=8000, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, **names
    ).save_pretrained(folder)
    settings = {"vocab_size": tokenizer.get_vocab_size()} | SHAPES[shape]
    torch.manual_seed(0)
    config = DebertaV2Config(
        **settings,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        type_vocab_size=0,
        pooler_hidden_size=settings["hidden_size"],
        num_labels=1,
        problem_type="multi_label_classification",
    )
    DebertaV2ForSequenceClassification(config).save_pretrained(folder)


def flops(tokens: np.ndarray[Any, Any], shape: str) -> float:
    """Multiplications and additions of one forward pass over pairs of so many tokens, unpadded."""
    own = SHAPES[shape]
    width, layers, inner = (
        own[k] for k in ("hidden_size", "num_hidden_layers", "intermediate_size")
    )
    length = tokens.astype(float)
    linear = 2 * length * (4 * width**2 + 2 * width * inner)
    content = 4 * length**2 * width
    positions = 4 * length * np.minimum(2 * own["position_buckets"], 2 * length) * width
    return float(layers * (linear + content + positions).sum())
