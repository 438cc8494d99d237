"""The pairs of an epoch, in order: every one once, or the negatives thinned out anew."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from criteria_cli.training.seeds import generator
from criteria_cli.training.tokens import Integers


def pairs_per_epoch(labels: NDArray[np.int8], negatives_per_positive: float | None) -> int:
    """How many pairs an epoch has: the same number every epoch."""
    positives = int(labels.sum())
    return positives + _kept_negatives(labels, negatives_per_positive)


def epoch_pairs(
    pairs: Integers,
    labels: NDArray[np.int8],
    negatives_per_positive: float | None,
    position: tuple[int, int, int],
) -> Integers:
    """The pairs of an epoch in the order they are trained on.

    A permutation without replacement. Batches are cut from it in order, so every batch is a plain
    random sample and none is built around lengths.

    Args:
        pairs: indices of the training pairs.
        labels: their labels.
        negatives_per_positive: keep at most this many negatives per positive, another sample of
            them each epoch; None keeps all.
        position: the trial's seed, the fold and the epoch, which decide everything.
    """
    kept = pairs
    count = _kept_negatives(labels, negatives_per_positive)
    negatives = pairs[labels == 0]
    if count < len(negatives):
        drawn = generator("negatives", *position).choice(negatives, size=count, replace=False)
        kept = np.concatenate([pairs[labels == 1], drawn])
    return generator("order", *position).permutation(kept)


def _kept_negatives(labels: NDArray[np.int8], ratio: float | None) -> int:
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if ratio is None or not positives:
        return negatives
    return min(negatives, math.floor(ratio * positives))
