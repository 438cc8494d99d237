"""Words put in place of others by a masked language model that reads the sentence around them.

Kobayashi, "Contextual Augmentation: Data Augmentation by Words with Paradigmatic Relations", 2018,
without its label condition. The model is loaded when the first sentence comes and given back by
`close`, so that it is on the device only while variants are made.
"""

from __future__ import annotations

import gc
import re
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from criteria_cli.errors import UsageError
from criteria_cli.training.devices import Device
from criteria_cli.training.pretrained import open_checkpoint
from criteria_cli.training.quiet import silence_transformers

CANDIDATES = 20
"""The likeliest words of a place, among which one is drawn by its probability."""
_WORD = re.compile(r"[^\W\d_]{3,}(?!['\u2019\w])")
"""What may be replaced: words of at least three letters without an apostrophe."""


class ContextualAugmenter:
    """Replaces a share of a sentence's words; see `criteria_cli.data.augment.Augmenter`.

    Args:
        name: a masked language model, a hub name or a local directory.
        words: the share of the sentence's words that are replaced; at least one, if any can be.
        device: where the model runs.

    Raises:
        UsageError: on the first sentence, that the model cannot be used.
    """

    def __init__(self, name: str, words: float, device: Device) -> None:
        self.name = name
        self.words = words
        self._device = device

    @property
    def identity(self) -> str:
        """What the result depends on beside the sentence and the random numbers."""
        return f"contextual 1 {self.name} {self._checkpoint.source} {self.words} {CANDIDATES}"

    def __call__(self, sentence: str, random: np.random.Generator) -> str:
        places = [match.span() for match in _WORD.finditer(sentence)]
        if not places:
            return sentence
        count = max(1, round(self.words * len(places)))
        chosen = sorted(random.choice(len(places), size=count, replace=False).tolist())
        return self._refill(sentence, [places[place] for place in chosen], random)

    def close(self) -> None:
        """Give the model back."""
        self.__dict__.pop("_loaded", None)
        gc.collect()
        self._device.empty_cache()

    @cached_property
    def _checkpoint(self) -> Any:
        silence_transformers()
        return open_checkpoint(self.name)

    @cached_property
    def _loaded(self) -> tuple[Any, Any, torch.Tensor]:
        """Model, tokenizer, and which tokens (vocabulary,) may stand for a word."""
        checkpoint = self._checkpoint
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                checkpoint.directory, trust_remote_code=False, local_files_only=True
            )
            model, info = AutoModelForMaskedLM.from_pretrained(
                checkpoint.directory,
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=checkpoint.safetensors,
                weights_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise self._refused() from error
        if tokenizer.mask_token_id is None or any(
            key.startswith(("cls.", "lm_head.", "predictions.", "head.", "vocab_"))
            for key in info["missing_keys"]
        ):
            raise self._refused()
        model.to(self._device.torch_device).eval()
        size = model.get_output_embeddings().weight.shape[0]
        whole = torch.tensor(_whole_words(tokenizer, size), device=self._device.torch_device)
        return model, tokenizer, whole

    def _refused(self) -> UsageError:
        return UsageError(
            f"`augmentation.language_model` `{self.name}` is not a masked language model",
            hint="name one such as `distilbert/distilroberta-base`",
            code="augmentation.language_model",
        )

    def _refill(
        self, sentence: str, places: list[tuple[int, int]], random: np.random.Generator
    ) -> str:
        model, tokenizer, whole = self._loaded
        pieces, end = [], 0
        for start, stop in places:
            pieces += [sentence[end:start], tokenizer.mask_token]
            end = stop
        masked = "".join([*pieces, sentence[end:]])
        batch = tokenizer(
            masked, return_tensors="pt", truncation=True, max_length=_longest(model, tokenizer)
        ).to(self._device.torch_device)
        with torch.no_grad():
            logits = model(**batch).logits[0].float()
        at = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0].tolist()
        logits = logits.masked_fill(~whole, -torch.inf)
        # a sentence longer than the model reads keeps the words behind its end
        for place, row in reversed(list(zip(places, at, strict=False))):
            old = sentence[place[0] : place[1]]
            new = _drawn(logits[row], tokenizer, old, random)
            sentence = sentence[: place[0]] + new + sentence[place[1] :]
        return sentence


def _drawn(logits: torch.Tensor, tokenizer: Any, old: str, random: np.random.Generator) -> str:
    """A likely word other than the old one, in its case."""
    best = torch.topk(logits, min(CANDIDATES + 1, len(logits)))
    tokens: list[str] = [tokenizer.decode([int(token)]).strip() for token in best.indices]
    kept = [
        (token, float(value))
        for token, value in zip(tokens, best.values.tolist(), strict=True)
        if token.lower() != old.lower() and np.isfinite(value)
    ][:CANDIDATES]
    if not kept:
        return old
    weights = np.exp(np.array([value for _, value in kept]) - kept[0][1])
    word: str = kept[int(random.choice(len(kept), p=weights / weights.sum()))][0]
    if old.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if old[:1].isupper() else word.lower()


def _whole_words(tokenizer: Any, size: int) -> list[bool]:
    """Which of `size` tokens are a whole word of letters, for byte-pair, metaspace and WordPiece
    vocabularies; rows of the model behind the vocabulary are none."""
    vocabulary = tokenizer.get_vocab()
    marked = next((mark for mark in ("\u0120", "\u2581") if any(mark in t for t in vocabulary)), "")
    special = set(tokenizer.all_special_tokens)
    found = [False] * size
    for token, number in vocabulary.items():
        word = token.removeprefix(marked)
        starts = token.startswith(marked) if marked else not token.startswith("##")
        if starts and len(word) > 2 and word.isalpha() and token not in special:
            found[number] = True
    return found


def _longest(model: Any, tokenizer: Any) -> int:
    """Tokens that the model reads; RoBERTa's first two positions are none."""
    positions = int(model.config.max_position_embeddings) - 2
    limit = tokenizer.model_max_length  # as a file says it, which may be anything
    return min(int(limit), positions) if isinstance(limit, int | float) else positions
