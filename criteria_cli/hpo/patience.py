"""Patience over folds: stop after this many disappointing folds in a row."""

from __future__ import annotations

import numpy as np

from criteria_cli.hpo.scores import Floats, Scores

LEAST_COMPLETE = 3
"""Complete trials before paired differences say anything about their noise."""


def folds_since_best(scores: Floats) -> int:
    """Folds since the trial's own best one, which ties do not move. `scores`: (k,)."""
    return len(scores) - 1 - int(np.argmax(scores))


def own_patience_stops(scores: Floats, folds: int) -> bool:
    """The rule as written in the spec: `folds` folds in a row that do not beat the own best.

    It takes folds for a learning curve, though their order carries no meaning: of five exchangeable
    folds it stops 1/3 + 1/4 of all trials before the last, whatever their quality.
    """
    return folds_since_best(scores) >= folds


def paired_noise(history: Scores) -> float:
    """The sd of one fold's score once trial and fold effects are taken out.

    The residual sd of a two-way layout over the finished trials, (n - 1)(K - 1) degrees of freedom;
    NaN with fewer than `LEAST_COMPLETE` of them or with one fold.
    """
    scores = history.folds[history.finished]
    trials, folds = scores.shape
    if trials < LEAST_COMPLETE or folds < 2:
        return float("nan")
    left = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    return float(np.sqrt((left**2).sum() / ((trials - 1) * (folds - 1))))


def incumbent_patience_stops(scores: Floats, history: Scores, folds: int, margin: float) -> bool:
    """Whether the last `folds` folds were all below the incumbent's score on the same fold.

    `margin` is how far below counts, in sds of a difference between two trials on one fold.
    """
    best = history.incumbent
    if best is None or len(scores) < folds:
        return False
    allowed = 0.0
    if margin > 0.0:
        allowed = margin * paired_noise(history) * np.sqrt(2.0)
        if np.isnan(allowed):
            return False
    behind = scores < history.folds[best, : len(scores)] - allowed
    return bool(behind[-folds:].all())
