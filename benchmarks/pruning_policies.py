"""Pruning rules replayed over tables of scores, one trial after the other.

The rules of criteria are its own code: the functions that `hpo.pruning.judge` calls. Those of
Optuna and Ray Tune are written out here so that thousands of studies replay in minutes;
`tests/hpo/test_pruning_policies.py` holds each of them to its original, decision by decision.

Folds and epochs are places from 0 in this file; a stop is how many epochs a trial ran, counted
through all of its folds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from criteria_cli.hpo.curve_model import CurveModel, Forecaster, fit_curves
from criteria_cli.hpo.curves import Curves, look_epochs
from criteria_cli.hpo.hyperband import promoted, rungs_of
from criteria_cli.hpo.patience import incumbent_patience_stops, own_patience_stops
from criteria_cli.hpo.racing import ERROR_RATE, LEAST_COMPLETE, Race, most_promising
from criteria_cli.hpo.scores import Scores
from criteria_cli.study.spec import StudySpec

Floats = NDArray[np.float64]

STUDY_NAME = "criteria"
STARTUP_TRIALS = 10
REFIT_ITERATIONS = 15
REFIT_GROWTH = 1.2
"""Racing is refitted here when a study has grown by a fifth; production refits for each look."""


@dataclass
class Played:
    """A study as far as it has been played."""

    epochs: Floats
    """(n, K, E) the table of all scores; what was not run is never looked at."""
    folds: Floats = field(init=False)
    """(n, K) scores of folds that were run."""
    run: NDArray[np.int64] = field(init=False)
    """(n,) epochs run."""
    complete: NDArray[np.bool_] = field(init=False)
    results: Floats = field(init=False)
    """(n, K) scores of all folds."""
    best_mean: float = -math.inf
    picks: list[tuple[int, int]] = field(default_factory=list)
    """(trial, epochs spent by then) whenever the incumbent changed."""

    def __post_init__(self) -> None:
        trials, folds, _ = self.epochs.shape
        self.results = self.epochs.max(axis=2)
        self.folds = np.full((trials, folds), np.nan)
        self.run = np.zeros(trials, dtype=np.int64)
        self.complete = np.zeros(trials, dtype=bool)

    @property
    def fold_count(self) -> int:
        return int(self.epochs.shape[1])

    @property
    def epoch_count(self) -> int:
        return int(self.epochs.shape[2])

    @property
    def whole(self) -> int:
        """Epochs of a trial that runs to its end."""
        return self.fold_count * self.epoch_count

    def end(self, trial: int, run: int, *, complete: bool) -> None:
        """A trial has run this many epochs and is over."""
        self.run[trial] = run
        done = run // self.epoch_count
        self.folds[trial, :done] = self.results[trial, :done]
        self.complete[trial] = complete
        mean = float(self.results[trial].mean())
        if complete and mean > self.best_mean:
            self.best_mean = mean
            self.picks.append((trial, int(self.run.sum())))

    def history(self, until: int, *, epochs: bool = False) -> Scores:
        """What the store holds before trial `until` begins."""
        seen = np.empty((until, self.fold_count, 0))
        if epochs:
            ran = np.arange(self.epochs[0].size).reshape(self.epochs[0].shape)
            seen = np.where(ran < self.run[:until, None, None], self.epochs[:until], np.nan)
        return Scores(
            number=np.arange(until),
            complete=self.complete[:until],
            stopped=~self.complete[:until],
            folds=self.folds[:until],
            epochs=seen,
        )


class Policy(Protocol):
    """Says how many epochs a trial runs; K * E completes it, more has it pruned after its end."""

    def __call__(self, played: Played, trial: int) -> int: ...


def play(epochs: Floats, policy: Policy) -> Played:
    """Run a study of the table's trials in their order under a policy."""
    played = Played(epochs)
    for trial in range(len(epochs)):
        run = policy(played, trial)
        played.end(trial, min(run, played.whole), complete=run == played.whole)
    return played


def confirm(played: Played, count: int) -> None:
    """Finish the most promising stopped trials, as `--confirm` does at the end of a study."""
    for candidate in most_promising(played.history(len(played.run), epochs=True), count):
        played.end(candidate.number, played.whole, complete=True)


def at_folds(rule: Callable[[Played, int, int], bool], startup: int = STARTUP_TRIALS) -> Policy:
    """A policy from a rule that is asked after each fold but the last.

    The rule (played, trial, folds done) is asked of the first trials too, and not obeyed.
    """

    def policy(played: Played, trial: int) -> int:
        for done in range(1, played.fold_count):
            if rule(played, trial, done) and trial >= startup:
                return done * played.epoch_count
        return played.whole

    return policy


def none(played: Played, trial: int) -> int:  # noqa: ARG001
    """Every trial runs to its end."""
    return played.whole


def definition(fold_count: int) -> StudySpec:
    return StudySpec.from_json(
        {
            "schema": 1,
            "name": STUDY_NAME,
            "data": {"format": "synthetic"},
            "validation": {"folds": fold_count},
        }
    )


class Hyperband:
    """criteria's Hyperband over folds; with `bootstrap` as Optuna's `bootstrap_count`."""

    def __init__(self, fold_count: int, bootstrap: int = 0) -> None:
        self.spec = definition(fold_count)
        self.bootstrap = bootstrap
        self.on_record: dict[tuple[tuple[int, ...], int], list[float]] = {}

    def __call__(self, played: Played, trial: int, done: int) -> bool:
        rungs = rungs_of(self.spec, STUDY_NAME, trial)
        if done not in rungs:
            return False
        others = self.on_record.setdefault((rungs, done), [])
        value = float(played.results[trial, :done].mean())
        stays = promoted(value, others, self.spec.pruner.reduction_factor)
        others.append(value)
        return not stays or len(others) <= self.bootstrap


def own_patience(played: Played, trial: int, done: int) -> bool:
    return own_patience_stops(played.results[trial, :done], 2)


def incumbent_patience(margin: float) -> Callable[[Played, int, int], bool]:
    def rule(played: Played, trial: int, done: int) -> bool:
        scores = played.results[trial, :done]
        return incumbent_patience_stops(scores, played.history(trial), 2, margin)

    return rule


def both(
    first: Callable[[Played, int, int], bool], second: Callable[[Played, int, int], bool]
) -> Callable[[Played, int, int], bool]:
    def rule(played: Played, trial: int, done: int) -> bool:
        stop = first(played, trial, done)  # asked always: it keeps records
        return second(played, trial, done) or stop

    return rule


def spec_exactly(fold_count: int) -> Policy:
    """Hyperband(1, 5, 3, bootstrap_count=10) and own-best patience, checked after every fold."""
    hyperband = Hyperband(fold_count, bootstrap=10)

    def policy(played: Played, trial: int) -> int:
        for done in range(1, played.fold_count + 1):
            if hyperband(played, trial, done) or own_patience(played, trial, done):
                # More than the whole: pruned after its last fold, at the whole cost.
                return done * played.epoch_count + (done == played.fold_count)
        return played.whole

    return policy


def optuna_median(startup: int = 5) -> Callable[[Played, int, int], bool]:
    """Optuna's `MedianPruner()` on running means: the best so far against the step's median."""

    def rule(played: Played, trial: int, done: int) -> bool:
        complete = np.flatnonzero(played.complete[:trial])
        if len(complete) < startup:
            return False
        median = np.median(played.results[complete, :done].mean(axis=1))
        running = np.cumsum(played.results[trial, :done]) / np.arange(1, done + 1)
        return bool(running.max() < median)

    return rule


class OptunaSuccessiveHalving:
    """Optuna's `SuccessiveHalvingPruner()` on running means: rungs after folds 1 and 4."""

    def __init__(self) -> None:
        self.rungs: dict[int, list[float]] = {}
        self.passed: dict[int, int] = {}

    def __call__(self, played: Played, trial: int, done: int) -> bool:
        if not played.complete[:trial].any():
            return False  # `min_resource="auto"` waits for a complete trial
        value = float(played.results[trial, :done].mean())
        while done >= 4 ** self.passed.get(trial, 0):
            others = self.rungs.setdefault(self.passed.get(trial, 0), [])
            stays = promoted(value, others, 4)
            others.append(value)
            self.passed[trial] = self.passed.get(trial, 0) + 1
            if not stays:
                return True
        return False


def optuna_wilcoxon(threshold: float = 0.1) -> Callable[[Played, int, int], bool]:
    """Optuna's `WilcoxonPruner()` on fold scores: exact one-sided signed-rank test."""

    def rule(played: Played, trial: int, done: int) -> bool:
        if done < 2 or not played.picks:
            return False
        best = played.results[played.picks[-1][0]]
        mine = played.results[trial, :done]
        sure = _signed_rank_p(mine - best[:done]) < threshold
        return sure and not best.mean() <= mine.mean()

    return rule


def _signed_rank_p(differences: Floats) -> float:
    """P(rank sum of positive differences <= the one seen), of all signs; no ties assumed."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    seen = ranks[differences > 0].sum()
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in itertools.product((False, True), repeat=len(ranks))
    ]
    return float(np.mean(np.array(sums) <= seen))


class RayAsha:
    """Ray Tune's `ASHAScheduler(max_t=K * E)` with its defaults, over epochs through all folds.

    Grace period 1, reduction factor 4, one bracket; the stopping form. A trial reports after each
    epoch the mean of its finished folds and the best of the current one.
    """

    factor = 4

    def __init__(self) -> None:
        self.rungs: dict[int, list[float]] = {}

    def __call__(self, played: Played, trial: int) -> int:
        values = running_estimates(played.epochs[trial])
        milestone = 1
        while milestone < played.whole:
            others = self.rungs.setdefault(milestone, [])
            value = float(values[milestone - 1])
            stop = bool(others) and value < np.percentile(others, (1 - 1 / self.factor) * 100)
            others.append(value)
            if stop:
                return milestone
            milestone *= self.factor
        return played.whole


def running_estimates(epochs: Floats) -> Floats:
    """(K * E,) mean of the finished folds and the best of the current one, after each epoch."""
    best = np.maximum.accumulate(epochs, axis=1)
    before = np.concatenate([[0.0], np.cumsum(best[:, -1])[:-1]])
    folds = np.arange(1, len(epochs) + 1)
    return ((before[:, None] + best) / folds[:, None]).ravel()


class Racing:
    """criteria's racing over folds and epochs, or over folds alone; with Hyperband if asked."""

    def __init__(
        self,
        *,
        error_rate: float = ERROR_RATE,
        startup: int = STARTUP_TRIALS,
        epochs: bool = True,
        hyperband: Hyperband | None = None,
        refit_growth: float = REFIT_GROWTH,
        restart: bool = False,
    ) -> None:
        self.error_rate, self.startup = error_rate, max(startup, LEAST_COMPLETE)
        self.by_epochs, self.hyperband = epochs, hyperband
        self.refit_growth, self.restart = refit_growth, restart
        self.curves: Curves | None = None
        self.model: CurveModel | None = None
        self.forecaster: Forecaster | None = None
        self.floors: Floats | None = None
        self.refit_at = 0

    def __call__(self, played: Played, trial: int) -> int:
        if self.curves is None:
            table = played.epochs if self.by_epochs else played.epochs[:, :, :0]
            self.curves = Curves.of(played.results, table)
        run = played.whole
        if trial >= self.startup:
            self._refit(played, trial)
            assert self.forecaster is not None
            assert self.floors is not None
            race = Race(self.forecaster, self.floors, played.best_mean)
            stop = race.first_stop(self.curves.values[trial], self.error_rate)
            run = run if stop is None else self._epochs_at(stop, played)
        return self._with_hyperband(played, trial, run)

    def _refit(self, played: Played, trial: int) -> None:
        if trial < self.refit_at:
            return
        assert self.curves is not None
        ends = np.array([self._epochs_at(look, played) for look in range(self.curves.length)])
        known = np.searchsorted(ends, played.run[:trial], side="right")
        seen = Curves(self.curves.values[:trial], known, self.curves.fold_count, self.curves.looks)
        self.floors = seen.floors()
        raised = seen.above(self.floors)
        if self.model is None or self.restart:
            self.model = fit_curves(raised)
        else:
            self.model = fit_curves(raised, iterations=REFIT_ITERATIONS, start=self.model)
        self.forecaster = Forecaster.of(self.model)
        self.refit_at = max(trial + 1, int(trial * self.refit_growth))

    def _epochs_at(self, look: int, played: Played) -> int:
        assert self.curves is not None
        fold, place = divmod(look, self.curves.looks)
        epochs = played.epoch_count
        within = (*look_epochs(epochs if self.by_epochs else 0), epochs)
        return fold * epochs + within[place]

    def _with_hyperband(self, played: Played, trial: int, run: int) -> int:
        if self.hyperband is None:
            return run
        for done in range(1, min(run // played.epoch_count, played.fold_count - 1) + 1):
            if self.hyperband(played, trial, done) and trial >= self.startup:
                return done * played.epoch_count
        return run
