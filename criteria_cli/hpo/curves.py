"""Learning curves of a study's trials as vectors in the order in which they become known.

A trial's curve is the best score so far at a few epochs of each fold, the *looks*, the last of
which is the fold's result. Trials run their folds in order, so what is known of a curve is always
its beginning, whichever trial and whoever stopped it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from criteria_cli.hpo.scores import Floats, Ints, Scores

MOST_LOOKS = 12
"""Looks per fold; with more epochs they stand further and further apart."""
FLOOR = 0.25
"""The quantile at which curves are cut off from below: a quarter of runs that fail, each in its own
way, would make every forecast unsure, and which of them is the worst says nothing of the best."""


def look_epochs(epoch_count: int) -> tuple[int, ...]:
    """The epochs, from 1, at which a fold is looked at before its end.

    Every epoch but the last up to `MOST_LOOKS` of them, else about geometrically spaced.
    """
    if epoch_count <= MOST_LOOKS:
        return tuple(range(1, epoch_count))
    spaced = np.geomspace(1, epoch_count, MOST_LOOKS)
    ladder = np.maximum(np.round(spaced), np.arange(1, MOST_LOOKS + 1)).astype(int)
    return tuple(int(epoch) for epoch in ladder[:-1])


@dataclass(frozen=True)
class Curves:
    """The curves of n trials over K folds with L looks each."""

    values: Floats
    """(n, K * L) best score so far, fold after fold; 0 where it is not known yet."""
    known: Ints
    """(n,) how many values are known from the beginning."""
    fold_count: int
    looks: int
    """L."""

    @classmethod
    def of(cls, folds: Floats, epochs: Floats) -> Curves:
        """From scores (n, K) of finished folds and (n, K, E) of epochs, NaN where there is none."""
        trials, fold_count = folds.shape
        at = np.array(look_epochs(epochs.shape[2]), dtype=np.int64) - 1
        best = np.fmax.accumulate(epochs, axis=2)[:, :, at] if epochs.shape[2] else epochs
        done = np.isfinite(folds)
        # A finished fold that ended early stays at its result; one without epochs counts as flat.
        best = np.where(np.isnan(best) & done[:, :, None], folds[:, :, None], best)
        values = np.concatenate([best, folds[:, :, None]], axis=2)
        seen = np.concatenate([_seen(epochs, at) | done[:, :, None], done[:, :, None]], axis=2)
        flat = seen.reshape(trials, -1)
        known = np.where(flat.all(axis=1), flat.shape[1], np.argmin(flat, axis=1))
        return cls(
            values=np.where(flat, values.reshape(trials, -1), 0.0),
            known=known.astype(np.int64),
            fold_count=fold_count,
            looks=len(at) + 1,
        )

    @classmethod
    def of_history(cls, history: Scores) -> Curves:
        """The curves of every trial in the store."""
        return cls.of(history.folds, history.epochs)

    @property
    def length(self) -> int:
        """K * L, the length of a whole curve."""
        return self.fold_count * self.looks

    def floors(self) -> Floats:
        """(K * L,) the lower quartile of each look over the curves that are known there; every look
        must be known of one."""
        known = np.arange(self.length) < self.known[:, None]
        return np.nanquantile(np.where(known, self.values, np.nan), FLOOR, axis=0)

    def above(self, floors: Floats) -> Curves:
        """With values below `floors` raised to them."""
        raised = np.maximum(self.values, floors)
        return Curves(raised, self.known, self.fold_count, self.looks)

    def rows(self, chosen: Ints) -> Curves:
        """Only these trials."""
        return Curves(self.values[chosen], self.known[chosen], self.fold_count, self.looks)


def _seen(epochs: Floats, at: Ints) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """(n, K, looks) whether every epoch up to a look was reported."""
    without_gap = np.logical_and.accumulate(np.isfinite(epochs), axis=2)
    return without_gap[:, :, at]
