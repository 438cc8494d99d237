"""`builtin:tiny-deberta-v2`: a small DeBERTa-v2 with random weights and a tokenizer of its own.

For demonstrations, tests and machines without a hub: nothing is downloaded, and the same texts
give the same tokenizer and the same weights on every machine.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import DebertaV2Config, PreTrainedTokenizerFast

from criteria_cli.study.durable import read_json
from criteria_cli.training.tensor_files import refuse_in_the_way

NAME = "builtin:tiny-deberta-v2"

VOCABULARY = 2048
"""The embedding's rows, whatever the tokenizer learnt: the shape must not hang on the texts."""
ALPHABET = 256
"""Distinct characters that get a token; a rarer one becomes `[UNK]`."""
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")


def tiny_config() -> DebertaV2Config:
    """Two layers of 64 with the relative attention of DeBERTa-v3 (He et al., 2021)."""
    # read by the encoder, though the configuration class does not declare them
    relative: dict[str, Any] = {
        "position_buckets": 32,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    }
    return DebertaV2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        max_position_embeddings=512,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        pad_token_id=0,
        **relative,
    )


def tiny_tokenizer(texts: Iterable[str], cache: Path | None = None) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer trained on `texts` (Sennrich et al., 2016).

    The order of `texts` does not matter. With `cache`, the trained vocabulary is kept there, in a
    file readable by its owner alone and named by the texts' digest. A file that is damaged is
    replaced.

    Raises:
        MachineError: something else stands in the file's place, or in that of `cache`.
    """
    ordered = sorted(set(texts))
    if cache is None:
        return _wrapped(_trained(ordered))
    digest = sha256(json.dumps([VOCABULARY, ordered]).encode()).hexdigest()[:16]
    path = cache / f"tiny-tokenizer-{digest}.json"
    refuse_in_the_way(path)
    definition = _kept(path)
    if definition is None:
        definition = _trained(ordered).to_str()
        content = {"sha256": _digest(path, definition), "tokenizer": definition}
        _write_private(path, json.dumps(content))
    return _wrapped(Tokenizer.from_str(definition))


def _kept(path: Path) -> str | None:
    """The tokenizer's definition in a file, or None where there is none as it was written: with
    another vocabulary, a study would go on with other tokens and no word of it."""
    content = read_json(path) or {}
    definition = content.get("tokenizer")
    if not isinstance(definition, str) or content.get("sha256") != _digest(path, definition):
        return None
    return definition


def _digest(path: Path, definition: str) -> str:
    """Of a definition under its file's name, which says what texts it is of."""
    whole = f"{path.name}\n{definition}"
    return sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


def _trained(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))  # noqa: S106 - a word, not a secret
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        limit_alphabet=ALPHABET,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    return tokenizer


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    special: dict[str, Any] = {f"{word.strip('[]').lower()}_token": word for word in SPECIAL}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="[CLS]",  # noqa: S106
        eos_token="[SEP]",  # noqa: S106
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask", "token_type_ids"],
        **special,
    )


def _write_private(path: Path, text: str) -> None:
    """Whole or not at all, for its owner alone; several processes may write the same file."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tiny-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)
