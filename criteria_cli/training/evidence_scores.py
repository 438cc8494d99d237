"""Which sentences of a post carry a decision: leave one sentence out and score the rest.

A sentence's weight is how much the log-odds fall without it (erasure; Li, Monroe and Jurafsky,
2016). It costs one forward per sentence and asks nothing of the architecture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from criteria_cli.data.evidence import Span

_END = re.compile(r"[.!?\u2026]+[\"'\u2019\u201d)\]]*(?=\s)|\n+")
"""Where a sentence may end: closing marks before white space, or the end of a line."""
_SHORT = re.compile(r"(?:^|\s)(?:[A-Z]|Dr|Mr|Mrs|Ms|St|No|vs|etc|e\.g|i\.e)\.$")
"""After these, a full stop ends no sentence."""

Score = Callable[[Sequence[str]], NDArray[np.float32]]
"""Log-odds (texts,) of one criterion for each of some texts."""


@dataclass(frozen=True)
class SentenceWeight:
    """One sentence of a post and what it does for a decision."""

    sentence: int
    """Counted from 0."""
    span: Span
    """Its characters in the post."""
    drop: float
    """How much the log-odds fall without it; below 0, it spoke against."""


def sentences(text: str) -> tuple[Span, ...]:
    """The sentences of a post as spans without the white space around them."""
    ends = [
        match.end()
        for match in _END.finditer(text)
        if not _SHORT.search(text[max(0, match.start() - 5) : match.end()])
    ]
    spans = []
    for start, end in pairwise([0, *ends, len(text)]):
        piece = text[start:end]
        if piece.strip():
            begin = start + len(piece) - len(piece.lstrip())
            spans.append(Span(begin, start + len(piece.rstrip())))
    return tuple(spans)


def sentence_weights(text: str, score: Score) -> tuple[SentenceWeight, ...]:
    """Every sentence of a post by its weight, the heaviest first.

    Args:
        text: the post.
        score: of the criterion that the decision is about.
    """
    spans = sentences(text)
    without = [f"{text[: span.start]}{text[span.end :]}" for span in spans]
    scores = score([text, *without])
    drops = scores[0] - scores[1:]
    order = np.argsort(-drops, kind="stable")
    return tuple(SentenceWeight(int(at), spans[at], float(drops[at])) for at in order)


@dataclass(frozen=True)
class EvidenceScore:
    """How often the heaviest sentence is an annotated one."""

    precision_at_1: float
    chance: float
    """What a sentence drawn at random would have scored."""
    pairs: int
    """Pairs that were looked at."""


def evidence_score(
    found: Sequence[tuple[Sequence[SentenceWeight], Sequence[Span]]],
) -> EvidenceScore | None:
    """Precision at 1 against annotated spans; None where there is nothing to look at.

    Args:
        found: for each positive pair, the sentences of its post, heaviest first, and the places of
            its annotated evidence. A sentence counts as annotated where half of it, or half of an
            annotation, lies in both.
    """
    hits, chances = [], []
    for weights, annotated in found:
        if len(weights) < 2 or not annotated:
            continue
        right = [any(_same(weight.span, span) for span in annotated) for weight in weights]
        if any(right):
            hits.append(right[0])
            chances.append(np.mean(right))
    if not hits:
        return None
    return EvidenceScore(float(np.mean(hits)), float(np.mean(chances)), len(hits))


def _same(sentence: Span, annotated: Span) -> bool:
    common = min(sentence.end, annotated.end) - max(sentence.start, annotated.start)
    shorter = min(sentence.end - sentence.start, annotated.end - annotated.start)
    return 2 * common >= shorter
