"""A study in memory, its trials read from a table of scores instead of being trained.

Asks, reports, judges and tells as the worker does, with as many workers as wanted taking turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna

from criteria_cli.hpo.pruning import Decision, asks, judge, optuna_pruner, reported
from criteria_cli.hpo.scores import Floats, Scores
from criteria_cli.study.spec import StudySpec
from criteria_cli.study.trial import EpochReport, FoldReport

State = optuna.trial.TrialState


def definition(folds: int = 5, epochs: int = 4, name: str = "played", **pruner: Any) -> StudySpec:
    """A definition with this pruner section."""
    return StudySpec.from_json(
        {
            "schema": 1,
            "name": name,
            "data": {"format": "synthetic"},
            "validation": {"folds": folds},
            "training": {"epochs": epochs},
            "pruner": pruner,
        }
    )


@dataclass
class PlayedStudy:
    """Trial n has the scores table[n], (folds, epochs)."""

    spec: StudySpec
    table: Floats
    study: optuna.Study = field(init=False)
    trials: dict[int, str] = field(default_factory=dict)
    folds: dict[tuple[int, int], float] = field(default_factory=dict)
    epochs: dict[tuple[int, int, int], float] = field(default_factory=dict)
    decisions: dict[int, list[Decision]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.study = optuna.create_study(
            study_name=self.spec.name, direction="maximize", pruner=optuna_pruner(self.spec)
        )

    def scores(self) -> Scores:
        return Scores.from_rows(
            self.trials.items(),
            [(*key, score) for key, score in self.folds.items()],
            [(*key, score) for key, score in self.epochs.items()],
            fold_count=self.spec.validation.fold_count,
            epoch_count=self.spec.training.epochs,
        )

    def begin(self) -> optuna.trial.Trial:
        trial = self.study.ask()
        self.trials[trial.number] = "RUNNING"
        self.decisions[trial.number] = []
        return trial

    def events(self, number: int) -> Iterator[EpochReport | FoldReport]:
        """All reports of a trial, in order."""
        for fold, scores in enumerate(self.table[number], start=1):
            best = np.maximum.accumulate(scores)
            for epoch, score in enumerate(scores, start=1):
                yield EpochReport(fold, epoch, float(score), float(best[epoch - 1]), 0.5, 1.0)
            yield FoldReport(fold, float(best[-1]), int(scores.argmax()) + 1, len(scores))

    def hear(self, trial: optuna.trial.Trial, event: EpochReport | FoldReport) -> Decision:
        """Store a report and judge it."""
        number = trial.number
        if isinstance(event, FoldReport):
            self.folds[number, event.fold] = event.score
        else:
            self.epochs[number, event.fold, event.epoch] = event.score
        finished = {fold: score for (owner, fold), score in self.folds.items() if owner == number}
        told = reported(self.spec, event, finished)
        if told is not None and told[1] not in self._values(number):
            trial.report(*told)
        decision = Decision(False)
        if asks(self.spec, event):
            decision = judge(self.study, trial, self.spec, self.scores(), event)
        self.decisions[number].append(decision)
        return decision

    def end(self, trial: optuna.trial.Trial, decision: Decision) -> None:
        number = trial.number
        if decision.stop:
            self.study.tell(trial, state=State.PRUNED)
            self.trials[number] = "PRUNED"
            return
        mean = np.mean([s for (owner, _), s in self.folds.items() if owner == number])
        self.study.tell(trial, float(mean))
        self.trials[number] = "COMPLETE"

    def run(self, trials: int, workers: int = 1) -> None:
        """Play trials with workers that take turns, one report each."""
        turns: list[Iterator[None]] = []
        while len(self.trials) < trials or turns:
            while len(turns) < workers and len(self.trials) < trials:
                turns.append(self._turns(self.begin()))
            turn = turns.pop(0)
            if next(turn, self) is None:
                turns.append(turn)

    def _turns(self, trial: optuna.trial.Trial) -> Iterator[None]:
        decision = Decision(False)
        for event in self.events(trial.number):
            decision = self.hear(trial, event)
            if decision.stop:
                break
            yield
        self.end(trial, decision)

    def folds_run(self, number: int) -> int:
        return sum(owner == number for owner, _ in self.folds)

    def reasons(self) -> dict[int, str]:
        """The rule that stopped each stopped trial."""
        return {
            number: str(decisions[-1].reason)
            for number, decisions in self.decisions.items()
            if decisions[-1].stop
        }

    def _values(self, number: int) -> dict[int, float]:
        return self.study.get_trials(deepcopy=False)[number].intermediate_values


def random_table(
    trials: int,
    folds: int = 5,
    epochs: int = 4,
    *,
    quality: float = 0.04,
    noise: float = 0.02,
    difficulty: float = 0.03,
    seed: int = 0,
) -> Floats:
    """Scores (trials, folds, epochs) of rising curves: quality, fold difficulty and noise."""
    rng = np.random.default_rng(seed)
    level = 0.5 + quality * rng.standard_normal((trials, 1))
    level = level + difficulty * rng.standard_normal(folds)
    level = level + noise * rng.standard_normal((trials, folds))
    rise = 1.0 - np.exp(-np.arange(1, epochs + 1))
    scores = level[:, :, None] * rise
    return np.asarray(scores + 0.005 * rng.standard_normal(scores.shape))
