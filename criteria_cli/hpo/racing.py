"""Racing: can this trial still beat the incumbent, by what its folds and epochs say so far?

At each look - some epochs of each fold, and its end - the study's curves (`curve_model`) forecast
the trial's final mean from the same folds and epochs of all other trials. A trial is stopped when
its chance of ending above the incumbent has fallen to `error_rate` times what it was before it
began.

The error rate. Given the model, the chance along a trial is a martingale, so by optional stopping
(Doob; the argument of Wald's sequential probability ratio test, 1945, and of Ville's inequality)

    P(stopped, yet would have beaten it) = E[chance when stopped; stopped] <= error_rate * P(beats):

of the trials that would have beaten the incumbent of their time, at most that share is stopped,
over all looks together, with no correction for their number. Looking at the chance of the final
result instead of today's is stochastic curtailment (Lan, Simon and Halperin, 1982).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from criteria_cli.hpo.curve_model import Forecaster, fit_curves
from criteria_cli.hpo.curves import Curves
from criteria_cli.hpo.scores import Floats, Scores

ERROR_RATE = 0.05
LEAST_COMPLETE = 3
"""Complete trials before anything can be said about noise."""
LEAST_SD = 1e-9


@dataclass(frozen=True)
class Standing:
    """How a trial stands against the incumbent."""

    stop: bool
    incumbent: int
    """The incumbent's trial number."""
    forecast: float
    """The trial's expected final mean, and its standard deviation."""
    sd: float
    chance: float
    """Of ending above the incumbent; and the same before the trial began."""
    chance_before: float


@dataclass(frozen=True)
class Race:
    """The state of a study against which trials are judged."""

    forecaster: Forecaster
    floors: Floats
    """(K * L,) below which a curve's values count as these; see `Curves.floors`."""
    to_beat: float
    """The incumbent's mean over folds."""

    @classmethod
    def of(cls, curves: Curves, to_beat: float) -> Race:
        """Fitted to curves of which at least three are whole."""
        floors = curves.floors()
        return cls(Forecaster.of(fit_curves(curves.above(floors))), floors, to_beat)

    def forecasts(self, values: Floats) -> Floats:
        """(..., K * L) expected final means of curves, as each look is known."""
        return self.forecaster.forecasts(np.maximum(values, self.floors))

    def behind(self, values: Floats) -> Floats:
        """(..., K * L) how far each look's forecast of a curve lies below the incumbent, in its
        standard deviations."""
        ahead = self.forecaster
        return (self.to_beat - self.forecasts(values)) / np.maximum(ahead.sd, LEAST_SD)

    @property
    def behind_before(self) -> float:
        """The same for a trial that has not begun."""
        return (self.to_beat - self.forecaster.prior_mean) / self.forecaster.prior_sd

    def limit(self, error_rate: float) -> float:
        """How far behind a trial is stopped."""
        return farthest(self.behind_before, error_rate)

    def first_stop(self, values: Floats, error_rate: float = ERROR_RATE) -> int | None:
        """The first look, from 0, after which a trial with this curve is stopped; not the last."""
        stopped = np.flatnonzero(self.behind(values)[:-1] > self.limit(error_rate))
        return int(stopped[0]) if len(stopped) else None


@dataclass(frozen=True)
class Candidate:
    """A stopped trial that might have been better than it looked."""

    number: int
    forecast: float
    """Its expected final mean, and the standard deviation."""
    sd: float
    chance: float
    """Of ending above the incumbent."""


def most_promising(history: Scores, count: int) -> tuple[Candidate, ...]:
    """The stopped trials that `--confirm` finishes: likeliest to end above the incumbent first.

    Empty while fewer than three trials are complete.
    """
    race = open_race(history)
    if race is None:
        return ()
    curves, sds = Curves.of_history(history), race.forecaster.sd
    found = []
    for row in np.flatnonzero(history.stopped & (curves.known > 0)):
        at = int(curves.known[row]) - 1
        forecast = float(race.forecasts(curves.values[row])[at])
        chance = math.exp(log_chance(float(race.behind(curves.values[row])[at])))
        found.append(Candidate(int(history.number[row]), forecast, float(sds[at]), chance))
    found.sort(key=lambda candidate: (-candidate.chance, -candidate.forecast, candidate.number))
    return tuple(found[:count])


def log_chance(z: float) -> float:
    """The log of a standard normal's probability above `z`."""
    if z < 30.0:
        return math.log(0.5 * math.erfc(z / math.sqrt(2.0)))
    return -0.5 * z * z - math.log(z * math.sqrt(2.0 * math.pi))


@lru_cache(maxsize=256)
def farthest(behind_before: float, error_rate: float) -> float:
    """How many sds behind the chance is `error_rate` times that at `behind_before`."""
    wanted = log_chance(behind_before) + math.log(error_rate)
    near, far = behind_before, max(behind_before, 0.0) + 1.0
    while log_chance(far) > wanted:
        far *= 2.0
    for _ in range(60):
        middle = (near + far) / 2.0
        near, far = (middle, far) if log_chance(middle) > wanted else (near, middle)
    return far


def open_race(history: Scores, *, leave_out: int | None = None) -> Race | None:
    """The race as the store holds it; None while fewer than three trials are complete.

    Args:
        leave_out: the number of the trial to be judged, which must not vouch for itself.
    """
    best = history.incumbent
    if best is None or history.finished.sum() < LEAST_COMPLETE:
        return None
    curves = Curves.of_history(history)
    others = np.flatnonzero((history.number != leave_out) & (curves.known > 0))
    return Race.of(curves.rows(others), float(history.folds[best].mean()))


def standing(
    number: int, folds: Floats, epochs: Floats, history: Scores, error_rate: float = ERROR_RATE
) -> Standing | None:
    """Judge a trial by its (K,) folds and (K, E) epochs so far; None while none can be judged."""
    own = Curves.of(folds[None], epochs[None])
    at = int(own.known[0]) - 1
    race = open_race(history, leave_out=number) if at >= 0 else None
    if race is None or history.incumbent is None:
        return None
    behind = float(race.behind(own.values[0])[at])
    return Standing(
        stop=behind > race.limit(error_rate),
        incumbent=int(history.number[history.incumbent]),
        forecast=float(race.forecasts(own.values[0])[at]),
        sd=float(race.forecaster.sd[at]),
        chance=math.exp(log_chance(behind)),
        chance_before=math.exp(log_chance(race.behind_before)),
    )
