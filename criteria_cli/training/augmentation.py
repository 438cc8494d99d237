"""Rewritten posts for the positive pairs of a training part, as token rows."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from criteria_cli.data.augment import Augmentation, Augmenter, VariantCache, augmented_texts
from criteria_cli.data.corpus import Corpus
from criteria_cli.study.spec import AugmentationSpec
from criteria_cli.training.augmented import Augmented
from criteria_cli.training.devices import CpuDevice, Device
from criteria_cli.training.examples import Examples
from criteria_cli.training.replay import is_out_of_memory
from criteria_cli.training.tokens import Integers, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = logging.getLogger(__name__)

COUNTS = (
    "augmented_pairs",
    "augmented_variants",
    "augmentations_applied",
    "evidence_found_share",
)
"""What a fold's costs say of augmentation, where it is on."""


class Variants:
    """Makes variants once for each training part and way of rewriting, and keeps them.

    Args:
        corpus: the corpus; only pairs that are passed later are looked at.
        folder: private; variants are text.
        device: where a language model runs while variants are made.
        seed: the study's, so that all its trials share them.
    """

    def __init__(self, corpus: Corpus, folder: Path, device: Device, seed: int) -> None:
        self._corpus = corpus
        self._folder = folder
        self._device = device
        self._seed = seed
        self._made: dict[str, Augmentation] = {}

    def of(self, train: Integers, settings: AugmentationSpec) -> Augmentation:
        """Variants of the positive pairs among `train`.

        Raises:
            UsageError: no evidence stands in its post, or the language model cannot be used.
            MachineError: WordNet or nltk is missing.
            WorkError: the augmenter changes nothing.
        """
        way = (settings.method, settings.words, settings.variants, settings.language_model)
        key = hashlib.sha256(repr(way).encode() + np.sort(train).tobytes()).hexdigest()
        if key not in self._made:
            self._made[key] = self._make(train, settings)
        return self._made[key]

    def _make(self, train: Integers, settings: AugmentationSpec) -> Augmentation:
        if settings.method == "synonym":
            from criteria_cli.data.wordnet import SynonymAugmenter

            synonyms = SynonymAugmenter(settings.words)
            made = self._rewritten(train, settings, synonyms, synonyms.identity)
        else:
            made = self._contextual(train, settings)
        _log.info(
            "augmentation: %d variants of %d of %d positive pairs, %d of %d evidence sentences "
            "found in their posts",
            made.variants, len(made.texts), made.positives, made.found, made.sentences,
        )  # fmt: skip
        return made

    def _contextual(self, train: Integers, settings: AugmentationSpec) -> Augmentation:
        """Under the device's cap, before the fold's memory is planned; a device too full for the
        language model beside the resident one leaves the work to the processor."""
        try:
            return self._contextual_on(self._device, train, settings)
        except RuntimeError as error:
            if self._device.kind == "cpu" or not is_out_of_memory(error):
                raise
        _log.warning(
            "augmentation: %s has no room for `%s`, it runs on the processor",
            self._device.name, settings.language_model,
        )  # fmt: skip
        return self._contextual_on(CpuDevice(), train, settings)

    def _contextual_on(
        self, device: Device, train: Integers, settings: AugmentationSpec
    ) -> Augmentation:
        from criteria_cli.training.contextual import ContextualAugmenter

        model = ContextualAugmenter(settings.language_model, settings.words, device)
        try:
            return self._rewritten(train, settings, model, model.identity)
        finally:
            model.close()

    def _rewritten(
        self, train: Integers, settings: AugmentationSpec, augmenter: Augmenter, identity: str
    ) -> Augmentation:
        cache = VariantCache(self._folder, identity)
        pairs = np.sort(train).tolist()
        return augmented_texts(self._corpus, pairs, augmenter, settings, self._seed, cache)


@dataclass(frozen=True)
class Rewritten:
    """Pairs with variants of their posts, or without."""

    examples: Examples
    augmented: Augmented | None = None
    made: Augmentation | None = None

    def counts(self, seed: int, fold: int, epochs: int) -> dict[str, float]:
        """What was found, and applied in so many epochs, for the fold's report."""
        if self.augmented is None or self.made is None:
            return {}
        counts = (
            len(self.made.texts),
            self.made.variants,
            self.augmented.applied(seed, fold, epochs),
            self.made.found_share,
        )
        return dict(zip(COUNTS, counts, strict=True))


def rewritten(
    examples: Examples, made: Augmentation, probability: float, tokenizer: PreTrainedTokenizerBase
) -> Rewritten:
    """Put variants behind the posts of `examples`, to stand in for them with `probability`."""
    flat: list[str] = []
    rows: dict[int, Integers] = {}
    first = len(examples.tokens.posts)
    for pair, own in made.texts.items():
        rows[pair] = np.arange(first + len(flat), first + len(flat) + len(own))
        flat += own
    tokens = examples.tokens.with_posts(examples.tokens.posts.extended(tokenize(tokenizer, flat)))
    augmented = Augmented(examples.post, rows, probability)
    return Rewritten(replace(examples, tokens=tokens), augmented, made)
