"""Rewriting the evidence of positive pairs, and nothing else of their posts.

Who calls it passes training pairs only: a rewritten post of a validation pair would make its score
mean nothing. A pair's variants depend on seed, post and criterion alone, so that folds share them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from criteria_cli.data.corpus import Corpus
from criteria_cli.data.evidence import FoundEvidence, Span, find_evidence
from criteria_cli.errors import UsageError, WorkError
from criteria_cli.study.durable import private_folder, read_json, write_json
from criteria_cli.study.spec import AugmentationSpec

Augmenter = Callable[[str, np.random.Generator], str]
"""Rewrites a sentence; answers the sentence itself where there is nothing to rewrite."""

_ATTEMPTS = 4
"""Tries in a row without a new variant before a post counts as having no more of them."""


@dataclass(frozen=True)
class VariantCache:
    """Variants that were made before, in a folder that only its owner can enter."""

    folder: Path
    identity: str
    """What made them: method, its settings, model or word list."""

    def path(self, corpus: Corpus, number: int, seed: int) -> Path:
        """The file for this data, this augmenter, this number of variants and this seed."""
        key = json.dumps([corpus.sha256, self.identity, number, seed])
        return self.folder / f"variants-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


@dataclass(frozen=True, repr=False)
class Augmentation:
    """Other texts for the posts of some positive pairs. Its `repr` never shows a text."""

    texts: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """By index of the pair: its post with the pair's evidence rewritten, each text different."""
    positives: int = 0
    """Positive pairs that were looked at."""
    sentences: int = 0
    """Evidence sentences of these."""
    found: int = 0
    """How many of them stand in their post."""

    def __repr__(self) -> str:
        return (
            f"Augmentation(pairs={len(self.texts)} of {self.positives}, variants={self.variants})"
        )

    @property
    def variants(self) -> int:
        """Rewritten posts altogether."""
        return sum(len(texts) for texts in self.texts.values())

    @property
    def found_share(self) -> float:
        """The share of evidence sentences that stand in their post."""
        return self.found / self.sentences if self.sentences else 0.0


def augmented_texts(
    corpus: Corpus,
    pair_indices: Iterable[int],
    augmenter: Augmenter,
    settings: AugmentationSpec,
    seed: int,
    cache: VariantCache | None = None,
) -> Augmentation:
    """Up to `settings.variants` rewritings of the post of each positive pair with evidence.

    Args:
        corpus: the corpus.
        pair_indices: training pairs; others are never looked at.
        augmenter: rewrites one sentence.
        settings: how many variants.
        seed: with post and criterion, decides the variants of a pair.
        cache: where to look for them first and to keep them; it holds text.

    Raises:
        UsageError: none of the positive pairs has evidence that stands in its post.
        WorkError: the augmenter answers no text, or changes nothing at all.
    """
    positives = [int(pair) for pair in pair_indices if corpus.label[pair]]
    evidence = find_evidence(corpus, positives)
    if not evidence.found:
        raise UsageError(_nothing_to_rewrite(evidence), code="data.no_evidence")
    path = cache.path(corpus, settings.variants, seed) if cache else None
    made = _read(path)
    known = len(made)
    for pair, spans in evidence.spans.items():
        if pair not in made:
            made[pair] = _variants(corpus, pair, spans, augmenter, settings.variants, seed)
    if path is not None and len(made) > known:
        private_folder(path.parent)
        write_json(path, {str(pair): texts for pair, texts in made.items()})
    texts = {pair: made[pair] for pair in evidence.spans if made[pair]}
    if not texts:
        raise WorkError(
            f"augmentation changed none of {evidence.found} evidence sentences",
            hint="set `augmentation.enable` to false, or another `augmentation.method`",
            code="work.augmentation",
        )
    return Augmentation(texts, len(positives), evidence.sentences, evidence.found)


def _read(path: Path | None) -> dict[int, tuple[str, ...]]:
    stored = read_json(path) if path is not None else None
    return {int(pair): tuple(texts) for pair, texts in (stored or {}).items()}


def _variants(
    corpus: Corpus,
    pair: int,
    spans: tuple[Span, ...],
    augmenter: Augmenter,
    number: int,
    seed: int,
) -> tuple[str, ...]:
    post, criterion = corpus.post[pair], corpus.criterion[pair]
    text = corpus.texts[post]
    random = np.random.default_rng(
        _seed(seed, corpus.post_ids[post], corpus.criteria[criterion].id)
    )
    variants: dict[str, None] = {}
    misses = 0
    while len(variants) < number and misses < _ATTEMPTS:
        variant = _rewritten(text, spans, augmenter, random)
        if variant == text or variant in variants:
            misses += 1
        else:
            variants[variant] = None
            misses = 0
    return tuple(variants)


def _rewritten(
    text: str, spans: tuple[Span, ...], augmenter: Augmenter, random: np.random.Generator
) -> str:
    pieces, end = [], 0
    for span in spans:
        sentence = augmenter(text[span.start : span.end], random)
        if not isinstance(sentence, str) or not sentence.strip():
            raise WorkError("the augmenter answered no text", code="work.augmentation")
        pieces += [text[end : span.start], sentence]
        end = span.end
    return "".join((*pieces, text[end:]))


def _seed(seed: int, post: str, criterion: str) -> int:
    word = f"{seed}\0{post}\0{criterion}".encode()
    return int.from_bytes(hashlib.blake2b(word, digest_size=16).digest())


def _nothing_to_rewrite(evidence: FoundEvidence) -> str:
    if not evidence.sentences:
        return "augmentation needs evidence sentences, and this data has none"
    return f"augmentation found none of {evidence.sentences} evidence sentences in their posts"
