"""What the scores of labelled pairs are worth. One place, in float32, with numpy alone.

Every value is defined: without a positive pair average precision is 0, without both labels AUROC
is 0.5, and precision, recall and F1 are 0 where their denominator is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from criteria_cli.errors import TrialFailed

Floats = NDArray[np.float32]
Integers = NDArray[np.integer]

COLLAPSED = 1e-3
"""A model whose scores lie this close together, in log-odds, says the same of every pair."""


@dataclass(frozen=True)
class Metrics:
    """How well scores tell positive pairs from negative ones."""

    pooled: Mapping[str, float]
    """Over all pairs: precision, recall, f1, auroc, average_precision, accuracy, macro_f1 (mean F1
    over the criteria that have a positive pair), all_positive_f1 (what calling every pair positive
    scores), pairs, positives."""
    per_criterion: Mapping[str, Mapping[str, float]]
    """The first six, pairs and positives of each criterion, by its id."""
    collapsed: bool
    """Whether the model gives every pair the same score."""
    reliability: tuple[tuple[int, float, int], ...] = ()
    """See `reliability_bins`."""

    def value(self, metric: str) -> float:
        """The study's metric: `f1`, `macro_f1` or `average_precision`."""
        return float(self.pooled[metric])


def measure(
    scores: NDArray[np.floating],
    labels: Integers,
    criterion: Integers,
    criteria: Sequence[str],
    threshold: float | NDArray[np.floating] = 0.0,
) -> Metrics:
    """Metrics of `scores` (pairs,), the log-odds of the positive class.

    Args:
        labels: (pairs,) of 0 and 1.
        criterion: (pairs,) indices into `criteria`, the criteria's ids.
        threshold: a pair is called positive when its score is above it; one number, or one a pair.

    Raises:
        TrialFailed: `nan_loss`, where a score is not a number.
    """
    scores = np.asarray(scores, dtype=np.float32)
    if not np.isfinite(scores).all():
        raise TrialFailed("nan_loss", "the model gives scores that are not numbers")
    positive = np.asarray(labels) == 1
    called = scores > threshold
    per_criterion = {}
    for index, name in enumerate(criteria):
        rows = np.asarray(criterion) == index
        if rows.any():
            per_criterion[name] = _of(scores[rows], positive[rows], called[rows])
    with_positives = [values["f1"] for values in per_criterion.values() if values["positives"]]
    prevalence = float(positive.mean()) if positive.size else 0.0
    pooled = _of(scores, positive, called) | {
        "macro_f1": float(np.mean(with_positives)) if with_positives else 0.0,
        "all_positive_f1": _ratio(2 * prevalence, 1 + prevalence),
    }
    collapsed = scores.size > 1 and float(np.ptp(scores)) < COLLAPSED
    return Metrics(pooled, per_criterion, collapsed, reliability_bins(scores, positive))


def reliability_bins(
    scores: Floats, positive: NDArray[np.bool_], bins: int = 10
) -> tuple[tuple[int, float, int], ...]:
    """What a reliability diagram shows (DeGroot and Fienberg, 1983).

    Returns:
        For each bin of equal width in probability that holds a pair: pairs, their mean
        probability, and how many of them are positive.
    """
    probabilities = 0.5 + 0.5 * np.tanh(scores.astype(np.float64) / 2)
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    return tuple(
        (
            int((place == number).sum()),
            float(probabilities[place == number].mean()),
            int(positive[place == number].sum()),
        )
        for number in np.unique(place)
    )


def _of(scores: Floats, positive: NDArray[np.bool_], called: NDArray[np.bool_]) -> dict[str, float]:
    hits = int((called & positive).sum())
    return {
        "precision": _ratio(hits, int(called.sum())),
        "recall": _ratio(hits, int(positive.sum())),
        "f1": _ratio(2 * hits, int(called.sum()) + int(positive.sum())),
        "auroc": auroc(scores, positive),
        "average_precision": average_precision(scores, positive),
        "accuracy": _ratio(int((called == positive).sum()), scores.size),
        "pairs": scores.size,
        "positives": int(positive.sum()),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def auroc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """The chance that a positive pair outscores a negative one, ties counting half."""
    positives = int(positive.sum())
    negatives = positive.size - positives
    if not positives or not negatives:
        return 0.5
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks = (last - (count - 1) / 2)[place]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / positives / negatives)


def average_precision(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Precision at each distinct score, weighted by the recall it adds."""
    positives = int(positive.sum())
    if not positives:
        return 0.0
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    added = np.diff(hits[ends], prepend=0)
    return float((hits[ends] / (ends + 1) * added).sum() / positives)
