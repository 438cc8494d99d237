"""What a trial reports, into the store, and the pruner's answer out of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from criteria_cli.failpoints import failpoint
from criteria_cli.hpo import leases as lease_rows
from criteria_cli.hpo import pruning
from criteria_cli.hpo.clock import now
from criteria_cli.hpo.confirmations import sources
from criteria_cli.hpo.leases import Lease
from criteria_cli.hpo.optuna_store import OpenStudy
from criteria_cli.hpo.optuna_tables import trials, trials_of
from criteria_cli.hpo.scores import Scores
from criteria_cli.hpo.tables import decisions, epochs, folds
from criteria_cli.hpo.trouble import trusting
from criteria_cli.study.pruning_rules import most_epochs
from criteria_cli.study.spec import StudySpec
from criteria_cli.study.trial import EpochReport, FoldReport


def record(
    connection: sa.Connection,
    opened: OpenStudy,
    spec: StudySpec,
    lease: Lease,
    event: EpochReport | FoldReport,
    *,
    judged: bool = True,
) -> pruning.Decision:
    """Store a report and ask the pruner; the same report twice changes nothing.

    Args:
        judged: False for a trial that runs to its end whatever it reports.

    Raises:
        LeaseLost: the trial is somebody else's.
    """
    lease_rows.hold(connection, lease)
    _store(connection, lease, event)
    failpoint("report.stored")
    if not pruning.asks(spec, event):
        return pruning.GO_ON
    told = pruning.reported(spec, event, finished_folds(connection, lease))
    with opened.within(connection) as study:
        trial = opened.trial(lease.trial_id)
        if told is not None:
            opened.report(lease.trial_id, *told)
        if not judged:
            return pruning.GO_ON
        history = _history(connection, spec, lease.trial)
        decision = pruning.judge(study, trial, spec, history, event)
    if decision.stop:
        _store_decision(connection, lease, event, decision)
    return decision


def upsert(connection: sa.Connection, table: sa.Table, values: dict[str, Any]) -> None:
    """Insert a row, or put its values in place of the one with the same key."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = make(table).values(values)
    keys = [column.name for column in table.primary_key]
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=keys,
            set_={name: statement.excluded[name] for name in values if name not in keys},
        )
    )


def store_fold(connection: sa.Connection, lease: Lease, event: FoldReport) -> None:
    """Write a finished fold."""
    upsert(
        connection,
        folds,
        {
            **_key(lease),
            "fold": event.fold,
            "score": float(event.score),
            "best_epoch": event.best_epoch,
            "epochs": event.epochs,
            "report": json.dumps(asdict(event), allow_nan=False),
            "token": lease.token,
            "at": now(),
        },
    )


def _store(connection: sa.Connection, lease: Lease, event: EpochReport | FoldReport) -> None:
    if isinstance(event, FoldReport):
        store_fold(connection, lease, event)
        return
    upsert(
        connection,
        epochs,
        {
            **_key(lease),
            "fold": event.fold,
            "epoch": event.epoch,
            "score": float(event.score),
            "best": float(event.best),
            "train_loss": float(event.train_loss),
            "seconds": float(event.seconds),
            "at": now(),
        },
    )


def _store_decision(
    connection: sa.Connection,
    lease: Lease,
    event: EpochReport | FoldReport,
    decision: pruning.Decision,
) -> None:
    upsert(
        connection,
        decisions,
        {
            **_key(lease),
            "fold": event.fold,
            "epoch": event.epoch if isinstance(event, EpochReport) else None,
            "reason": decision.reason,
            "incumbent": decision.detail.get("incumbent"),
            "detail": json.dumps(dict(decision.detail)),
            "at": now(),
        },
    )


def _key(lease: Lease) -> dict[str, Any]:
    return {"study": lease.study, "trial": lease.trial}


def finished_folds(connection: sa.Connection, lease: Lease) -> dict[int, float]:
    """Scores of a trial's finished folds, by number."""
    rows = connection.execute(
        sa.select(folds.c.fold, folds.c.score).where(
            folds.c.study == lease.study, folds.c.trial == lease.trial
        )
    )
    with trusting(lease.study):
        return {int(fold): float(score) for fold, score in rows}


def _history(connection: sa.Connection, spec: StudySpec, own: int) -> Scores:
    """Scores of the trials that this definition's rules read, the trial's own among them."""
    listed = trials_of(spec.name).where(trials.c.number.not_in(sources(spec.name)))
    if not pruning.reads_epochs(spec):
        wanted = trials.c.number == own
        if pruning.reads_complete(spec):
            wanted = sa.or_(wanted, trials.c.state == sa.literal_column("'COMPLETE'"))
        listed = listed.where(wanted)
    count = most_epochs(spec) if pruning.reads_epochs(spec) else 0
    return read_scores(connection, spec, listed, epoch_count=count)


def read_scores(
    connection: sa.Connection,
    spec: StudySpec,
    listed: sa.Select[tuple[object, ...]],
    *,
    epoch_count: int,
) -> Scores:
    """Scores of some trials.

    Args:
        listed: which, as `trials_of` has them.
        epoch_count: the most epochs of a fold, or 0 to leave epochs out.
    """
    states = listed.with_only_columns(trials.c.number, sa.cast(trials.c.state, sa.String))
    numbers = listed.with_only_columns(trials.c.number)
    of_folds = sa.select(folds.c.trial, folds.c.fold, folds.c.score).where(
        folds.c.study == spec.name, folds.c.trial.in_(numbers)
    )
    of_epochs = sa.select(epochs.c.trial, epochs.c.fold, epochs.c.epoch, epochs.c.score).where(
        epochs.c.study == spec.name
    )
    with trusting(spec.name):
        return Scores.from_rows(
            [tuple(row) for row in connection.execute(states)],
            [tuple(row) for row in connection.execute(of_folds)],
            [tuple(row) for row in connection.execute(of_epochs)] if epoch_count else (),
            fold_count=spec.validation.fold_count,
            epoch_count=epoch_count,
        )
