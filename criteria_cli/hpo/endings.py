"""How a trial leaves a worker: told to Optuna for good, or given back for somebody to go on.

Every ending holds the lease first, and may be repeated: an ending whose acknowledgement was lost
finds its own attempt closed and is done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
import sqlalchemy as sa
from optuna.trial import TrialState

from criteria_cli.failpoints import failpoint
from criteria_cli.hpo import leases as lease_rows
from criteria_cli.hpo.budget import may_finish
from criteria_cli.hpo.clock import now
from criteria_cli.hpo.leases import Lease, LeaseLost
from criteria_cli.hpo.optuna_store import OpenStudy
from criteria_cli.hpo.optuna_tables import trials, trials_of
from criteria_cli.hpo.reports import finished_folds, store_fold
from criteria_cli.hpo.tables import attempts, decisions, epochs, studies
from criteria_cli.study.trial import FoldReport

OUTCOMES = ("complete", "pruned", "failed", "retried", "yielded", "lost")
"""`retried`: failed in a way that another attempt may not. `lost`: its worker died."""

RETRIED_CAUSES = ("crashed", "killed", "stuck")
"""Failures of a process, not of a trial."""
FIRST_FAILURES = 5
"""A study pauses when so many of its first trials fail for one reason."""


@dataclass(frozen=True)
class Ending:
    """What to tell."""

    outcome: Literal["complete", "pruned", "failed", "yielded"]
    folds: Sequence[FoldReport] = ()
    cause: str = ""
    """For failures, a word of `CAUSES`."""
    message: str = ""

    @property
    def score(self) -> float | None:
        """Mean over the finished folds."""
        if not self.folds:
            return None
        return sum(fold.score for fold in self.folds) / len(self.folds)


def finish(connection: sa.Connection, opened: OpenStudy, lease: Lease, ending: Ending) -> str:
    """Record an ending; what it became, a word of `OUTCOMES`. Where the budget was lowered and has
    no place for it, the trial is given back with its folds.

    Raises:
        LeaseLost: the trial is somebody else's.
    """
    try:
        lease_rows.hold(connection, lease)
    except LeaseLost:
        known = _recorded(connection, lease)
        if known is None:
            raise
        return known
    _store_folds(connection, lease, ending.folds)
    with opened.within(connection) as study:
        became = _ended(connection, opened, study, lease, ending)
        opened.forget(lease.trial_id)
    return became


def _ended(
    connection: sa.Connection, opened: OpenStudy, study: optuna.Study, lease: Lease, ending: Ending
) -> str:
    over = ending.outcome in ("complete", "pruned") and not may_finish(connection, lease)
    if ending.outcome == "yielded" or over:
        return _leave(connection, lease, "yielded")
    if ending.outcome == "failed":
        if ending.cause in RETRIED_CAUSES and not _stands_still(connection, lease):
            return _leave(connection, lease, "retried", ending.cause, ending.message)
        fail(connection, study, lease, ending.cause, ending.message)
        return "failed"
    trial, score = opened.trial(lease.trial_id), ending.score
    trial.set_user_attr("folds", {str(fold.fold): fold.score for fold in ending.folds})
    if ending.outcome == "pruned":
        study.tell(trial, state=TrialState.PRUNED)
    elif score is None or not math.isfinite(score):
        fail(connection, study, lease, "nan_loss", "the score is not a number")
        return "failed"
    else:
        connection.execute(  # a stop that came too late did not stop it
            sa.delete(decisions).where(
                decisions.c.study == lease.study, decisions.c.trial == lease.trial
            )
        )
        study.tell(trial, float(score))
    failpoint("tell.told")
    _close(connection, lease, ending.outcome)
    lease_rows.end(connection, lease)
    return ending.outcome


def _store_folds(connection: sa.Connection, lease: Lease, ended: Sequence[FoldReport]) -> None:
    """Write the folds whose reports have not come here."""
    known = finished_folds(connection, lease)
    for fold in ended:
        if known.get(fold.fold) != fold.score:
            store_fold(connection, lease, fold)


def fail(
    connection: sa.Connection, study: optuna.Study, lease: Lease, cause: str, message: str
) -> None:
    """Fail a trial that we hold, and pause the study if its first ones all fail alike."""
    study.tell(lease.trial, state=TrialState.FAIL)
    _close(connection, lease, "failed", cause, message)
    lease_rows.end(connection, lease)
    if _first_all_failed(connection, lease.study, cause):
        connection.execute(
            sa.update(studies).where(studies.c.name == lease.study).values(paused=cause)
        )


def _leave(
    connection: sa.Connection, lease: Lease, outcome: str, cause: str = "", message: str = ""
) -> str:
    _close(connection, lease, outcome, cause, message)
    lease_rows.give_back(connection, lease)
    return outcome


def _close(
    connection: sa.Connection, lease: Lease, outcome: str, cause: str = "", message: str = ""
) -> None:
    connection.execute(
        sa.update(attempts)
        .where(_attempt(lease))
        .values(ended_at=now(), outcome=outcome, cause=cause or None, message=message[:500] or None)
    )


def _recorded(connection: sa.Connection, lease: Lease) -> str | None:
    """How this very attempt ended, if we recorded that before."""
    return connection.execute(
        sa.select(attempts.c.outcome).where(
            _attempt(lease), attempts.c.worker == lease.worker, attempts.c.outcome != "lost"
        )
    ).scalar()


def _attempt(lease: Lease) -> sa.ColumnElement[bool]:
    return sa.and_(
        attempts.c.study == lease.study,
        attempts.c.trial == lease.trial,
        attempts.c.token == lease.token,
    )


def _stands_still(connection: sa.Connection, lease: Lease) -> bool:
    """Whether this attempt and the one before it both failed without finishing an epoch.

    A trial that gets on is tried again however often its trainer is killed.
    """
    reported = int(
        connection.execute(
            sa.select(sa.func.count()).where(
                epochs.c.study == lease.study, epochs.c.trial == lease.trial
            )
        ).scalar_one()
    )
    latest = connection.execute(
        sa.select(attempts.c.epochs_before, attempts.c.outcome)
        .where(attempts.c.study == lease.study, attempts.c.trial == lease.trial)
        .order_by(attempts.c.token.desc())
        .limit(2)
    ).all()
    return (
        len(latest) == 2
        and all(row.epochs_before == reported for row in latest)
        and latest[1].outcome == "retried"
    )


def _first_all_failed(connection: sa.Connection, study: str, cause: str) -> bool:
    """Whether the trials since the study was last looked at began with failures of one kind."""
    since = connection.execute(
        sa.select(studies.c.judged_from).where(studies.c.name == study)
    ).scalar_one()
    states = (
        connection.execute(
            trials_of(study)
            .with_only_columns(sa.cast(trials.c.state, sa.String))
            .where(trials.c.number >= since)
        )
        .scalars()
        .all()
    )
    failed = sum(state == "FAIL" for state in states)
    if failed < FIRST_FAILURES or any(state in ("COMPLETE", "PRUNED") for state in states):
        return False
    causes = (
        connection.execute(
            sa.select(attempts.c.cause)
            .where(
                attempts.c.study == study, attempts.c.trial >= since, attempts.c.outcome == "failed"
            )
            .distinct()
        )
        .scalars()
        .all()
    )
    return set(causes) == {cause}
