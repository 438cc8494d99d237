"""Racing: can this trial still beat the incumbent, judged from the same folds and epochs?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from criteria_cli.hpo.patience import paired_noise
from criteria_cli.hpo.scores import Floats, Scores

ERROR_RATE_Z = 2.33
"""One-sided 1 %: how sure a decision must be that the trial would end below the incumbent."""


@dataclass(frozen=True)
class Race:
    """How a trial stands against the incumbent."""

    stop: bool
    incumbent: int
    """The incumbent's trial number."""
    behind: float
    """Predicted final mean of the incumbent less the trial's."""
    allowed: float
    """How far behind a trial may be and still go on."""


def race(folds: Floats, history: Scores) -> Race | None:
    """Judge a trial by its finished folds (k,); None while the history is too short."""
    best, sd = history.incumbent, paired_noise(history)
    if best is None or np.isnan(sd) or not len(folds):
        return None
    done, total = len(folds), history.fold_count
    behind = float((history.folds[best, :done] - folds).mean())
    allowed = ERROR_RATE_Z * sd * float(np.sqrt(2.0 * (total - done) / (total * done)))
    return Race(behind > allowed, int(history.number[best]), behind, allowed)
