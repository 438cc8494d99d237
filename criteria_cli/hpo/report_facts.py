"""What the report shows of a study, in one consistent read of the store."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import optuna
import sqlalchemy as sa

from criteria_cli.hpo import tables
from criteria_cli.hpo.confirmations import replaced
from criteria_cli.hpo.optuna_store import joined
from criteria_cli.hpo.trouble import trusting


@dataclass(frozen=True)
class FoldFact:
    """A finished fold."""

    trial: int
    fold: int
    score: float
    best_epoch: int
    epochs: int
    per_criterion: Mapping[str, Mapping[str, float]]
    costs: Mapping[str, float]
    reliability: Sequence[Sequence[float]] = ()
    """By predicted probability, in bins: pairs, their mean probability, their positives."""

    @property
    def place(self) -> tuple[int, ...]:
        return self.trial, self.fold


@dataclass(frozen=True)
class EpochFact:
    """One epoch's validation score."""

    trial: int
    fold: int
    epoch: int
    score: float
    seconds: float

    @property
    def place(self) -> tuple[int, ...]:
        return self.trial, self.fold, self.epoch


@dataclass(frozen=True)
class AttemptFact:
    """A worker's time on a trial. Seconds count from the study's start."""

    trial: int
    worker: str
    start_s: float
    end_s: float | None
    outcome: str
    """Empty while it runs."""


@dataclass(frozen=True)
class CutFact:
    """Where a trial was stopped and why."""

    trial: int
    fold: int
    epoch: int | None
    reason: str


@dataclass(frozen=True)
class StudyRecord:
    """Everything the report draws."""

    definition: Mapping[str, Any]
    study: optuna.Study
    """In memory: a copy of all trials, without their intermediate values."""
    folds: tuple[FoldFact, ...]
    epochs: tuple[EpochFact, ...]
    attempts: tuple[AttemptFact, ...]
    cuts: tuple[CutFact, ...]
    replaced: frozenset[int] = frozenset()
    """Stopped trials that another one has finished; see `confirm`. They count as one, so no fold,
    epoch or cut of theirs is here."""

    @property
    def metric(self) -> str:
        return str(self.definition["validation"]["metric"])

    @property
    def finished(self) -> list[optuna.trial.FrozenTrial]:
        """Trials that are over, by number; of a trial and its confirmation the latter."""
        return [
            trial
            for trial in self.study.trials
            if trial.state.is_finished() and trial.number not in self.replaced
        ]

    @property
    def complete(self) -> list[optuna.trial.FrozenTrial]:
        """Complete trials, the best first."""
        found = [
            trial
            for trial in self.study.trials
            if trial.state is optuna.trial.TrialState.COMPLETE and trial.value is not None
        ]
        return sorted(found, key=lambda trial: (-(trial.value or 0.0), trial.number))

    def fold_scores(self) -> dict[int, list[float]]:
        """Scores of the finished folds, in their order, by trial."""
        found: dict[int, list[float]] = defaultdict(list)
        for fold in self.folds:
            found[fold.trial].append(fold.score)
        return dict(found)


def read_record(engine: sa.Engine, name: str) -> StudyRecord:
    """Read a study; the caller has checked that it exists.

    Raises:
        StoreError: its rows are not as this criteria writes them.
    """
    with trusting(name), engine.begin() as connection:
        row = connection.execute(
            sa.select(tables.studies.c.definition, tables.studies.c.created_at).where(
                tables.studies.c.name == name
            )
        ).one()
        gone = frozenset(connection.execute(replaced(name)).scalars())
        confirmed = _confirmed(connection, name)
        return StudyRecord(
            definition=json.loads(row.definition),
            study=_copied_study(engine, connection, name),
            folds=_once(_folds(connection, name), confirmed, gone),
            epochs=_once(_epochs(connection, name), confirmed, gone),
            attempts=_attempts(connection, name, row.created_at),
            cuts=tuple(cut for cut in _cuts(connection, name) if cut.trial not in gone),
            replaced=gone,
        )


def _confirmed(connection: sa.Connection, name: str) -> dict[int, int]:
    """The stopped trial that each confirmation finishes."""
    table = tables.confirmations
    rows = connection.execute(sa.select(table.c.trial, table.c.source).where(table.c.study == name))
    return {row.trial: row.source for row in rows}


Fact = TypeVar("Fact", bound=FoldFact | EpochFact)


def _once(
    facts: Iterable[Fact], confirmed: Mapping[int, int], gone: frozenset[int]
) -> tuple[Fact, ...]:
    """A confirmation is born with its source's folds and epochs: they are the source's until the
    confirmation is complete, and then its own."""
    kept = {fact.place: fact for fact in facts if fact.trial not in gone}
    return tuple(
        fact for fact in kept.values() if (confirmed.get(fact.trial), *fact.place[1:]) not in kept
    )


def _copied_study(engine: sa.Engine, connection: sa.Connection, name: str) -> optuna.Study:
    with joined(engine, connection) as storage:
        trials = optuna.load_study(study_name=name, storage=storage).get_trials()
    copy = optuna.create_study(study_name=name, direction="maximize")
    copy.add_trials(trials)  # those that run too: a copy is numbered by its place
    return copy


def _folds(connection: sa.Connection, name: str) -> tuple[FoldFact, ...]:
    table = tables.folds
    rows = connection.execute(
        sa.select(table).where(table.c.study == name).order_by(table.c.trial, table.c.fold)
    )
    found = []
    for row in rows:
        report = json.loads(row.report)
        found.append(
            FoldFact(
                trial=row.trial,
                fold=row.fold,
                score=float(row.score),
                best_epoch=int(row.best_epoch),
                epochs=int(row.epochs),
                per_criterion={
                    criterion: _numbers(values)
                    for criterion, values in (report.get("per_criterion") or {}).items()
                },
                costs=_numbers(report.get("costs") or {}),
                reliability=[
                    (float(pairs), float(probability), float(positives))
                    for pairs, probability, positives in report.get("reliability") or ()
                ],
            )
        )
    return tuple(found)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Figures of a stored report, each held to be a number."""
    return {name: float(value) for name, value in values.items()}


def _epochs(connection: sa.Connection, name: str) -> tuple[EpochFact, ...]:
    table = tables.epochs
    rows = connection.execute(
        sa.select(table.c.trial, table.c.fold, table.c.epoch, table.c.score, table.c.seconds)
        .where(table.c.study == name)
        .order_by(table.c.trial, table.c.fold, table.c.epoch)
    )
    return tuple(
        EpochFact(row.trial, row.fold, row.epoch, float(row.score), float(row.seconds))
        for row in rows
    )


def _attempts(connection: sa.Connection, name: str, start: float) -> tuple[AttemptFact, ...]:
    table = tables.attempts
    rows = connection.execute(
        sa.select(
            table.c.trial,
            table.c.worker_name,
            table.c.started_at,
            table.c.ended_at,
            table.c.outcome,
        )
        .where(table.c.study == name)
        .order_by(table.c.started_at)
    )
    return tuple(
        AttemptFact(
            trial=row.trial,
            worker=row.worker_name,
            start_s=row.started_at - start,
            end_s=None if row.ended_at is None else row.ended_at - start,
            outcome=row.outcome or "",
        )
        for row in rows
    )


def _cuts(connection: sa.Connection, name: str) -> tuple[CutFact, ...]:
    table = tables.decisions
    rows = connection.execute(
        sa.select(table.c.trial, table.c.fold, table.c.epoch, table.c.reason)
        .where(table.c.study == name)
        .order_by(table.c.fold, table.c.epoch)
    )
    return tuple(CutFact(*row) for row in rows)
