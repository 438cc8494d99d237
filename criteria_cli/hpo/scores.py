"""What the store held about a study's folds and epochs when a decision was taken, as arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """Validation scores of a study's trials; NaN where nothing was reported.

    With n trials, K folds and E epochs at most:
    """

    number: Ints
    """(n,) trial numbers, ascending."""
    complete: Bools
    """(n,) which trials finished all of their folds."""
    stopped: Bools
    """(n,) which trials were pruned."""
    folds: Floats
    """(n, K) scores of finished folds."""
    epochs: Floats
    """(n, K, E) scores of single epochs; E may be 0 where no rule reads them."""

    @classmethod
    def from_rows(
        cls,
        trials: Iterable[tuple[int, str]],
        folds: Iterable[tuple[int, int, float]],
        epochs: Iterable[tuple[int, int, int, float]] = (),
        *,
        fold_count: int,
        epoch_count: int = 0,
    ) -> Scores:
        """Scores from plain rows in any order.

        Args:
            trials: (number, state) with Optuna's state names in any case, such as `COMPLETE`.
            folds: (number, fold, score), folds counted from 1.
            epochs: (number, fold, epoch, score), both counted from 1.
            fold_count: K, `spec.validation.fold_count`.
            epoch_count: E, the most epochs that any trial may run, or 0 to leave epochs out.

        Rows of trials that `trials` does not list, or outside K and E, are left out.
        """
        listed = sorted(trials)
        row_of = {number: row for row, (number, _) in enumerate(listed)}
        fold_scores = np.full((len(listed), fold_count), np.nan)
        epoch_scores = np.full((len(listed), fold_count, epoch_count), np.nan)
        for number, fold, score in folds:
            if number in row_of and fold <= fold_count:
                fold_scores[row_of[number], fold - 1] = score
        for number, fold, epoch, score in epochs:
            if number in row_of and fold <= fold_count and epoch <= epoch_count:
                epoch_scores[row_of[number], fold - 1, epoch - 1] = score
        return cls(
            number=np.array([number for number, _ in listed], dtype=np.int64),
            complete=np.array([state.lower() == "complete" for _, state in listed], dtype=bool),
            stopped=np.array([state.lower() == "pruned" for _, state in listed], dtype=bool),
            folds=fold_scores,
            epochs=epoch_scores,
        )

    @property
    def fold_count(self) -> int:
        return int(self.folds.shape[1])

    @property
    def epoch_count(self) -> int:
        return int(self.epochs.shape[2])

    @cached_property
    def finished(self) -> Bools:
        """(n,) complete trials with a score for every fold: the ones that can be compared with."""
        return self.complete & np.isfinite(self.folds).all(axis=1)

    @cached_property
    def incumbent(self) -> int | None:
        """The row of the best finished trial by mean fold score, the earliest of equals."""
        if not self.finished.any():
            return None
        means = np.where(self.finished, self.folds.mean(axis=1), -np.inf)
        return int(np.argmax(means))

    def row(self, number: int) -> int | None:
        """The row of a trial, or None if the store does not hold it."""
        row = int(np.searchsorted(self.number, number))
        return row if row < len(self.number) and self.number[row] == number else None
