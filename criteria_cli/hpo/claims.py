"""Which trial a free worker takes: one left behind, or a new one while the budget lasts.

Everything happens in one transaction under the study's lock: dead holders are found, trials are
counted, Optuna samples, and the owner is written. Whenever a worker dies, either all of it stands
or nothing, so every running trial has an owner and the budget is met exactly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import optuna
import sqlalchemy as sa
from optuna.trial import TrialState

from criteria_cli.failpoints import failpoint
from criteria_cli.hpo import leases as lease_rows
from criteria_cli.hpo.budget import confirming
from criteria_cli.hpo.confirm import make_trial, next_source
from criteria_cli.hpo.confirmations import source_of, tally
from criteria_cli.hpo.endings import fail
from criteria_cli.hpo.leases import Lease
from criteria_cli.hpo.optuna_store import OpenStudy
from criteria_cli.hpo.optuna_tables import trials as optuna_trials
from criteria_cli.hpo.optuna_tables import trials_of
from criteria_cli.hpo.rows import bury, lock_study
from criteria_cli.hpo.search import sampler_for, suggest
from criteria_cli.hpo.tables import attempts, decisions, epochs, folds, leases, studies, workers
from criteria_cli.hpo.trouble import trusting
from criteria_cli.study.spec import Scalar, StudySpec
from criteria_cli.study.trial import FoldReport

LOST_IN_A_ROW = 5
"""A trial is failed after so many workers died on it without an epoch in between."""


_Left = sa.Row[tuple[int, int, str]]
"""A lease whose trial may be taken."""


@dataclass(frozen=True)
class Claim:
    """A trial of our own."""

    lease: Lease
    params: Mapping[str, Scalar]
    attempt: int
    adopted_from: str | None
    """The worker that had it before."""
    folds: tuple[FoldReport, ...]
    """Finished before."""
    decided: str | None
    """The reason, if the pruner has stopped it already."""
    source: int | None = None
    """The stopped trial that this one finishes; see `confirm`."""

    @property
    def home(self) -> int:
        """The trial whose seed it trains with and in whose folder it writes."""
        return self.lease.trial if self.source is None else self.source


@dataclass(frozen=True)
class Nothing:
    """No trial to take."""

    why: Literal["finished", "wait", "paused"]
    """`wait`: others still run the last ones, and may fail them."""
    cause: str = ""


@dataclass(frozen=True)
class Claimer:
    """What a worker claims with."""

    spec: StudySpec
    worker: str
    lease_s: float
    is_dead: Callable[[str], bool]
    """Whether a worker of this machine, by id, is known to have ended."""
    may_judge: Callable[[sa.Connection], bool]
    """Whether leases that ran out may be taken: not while the store has just been away."""

    def claim(self, connection: sa.Connection, opened: OpenStudy) -> Claim | Nothing:
        """Take a trial, or say why there is none. Call it in a transaction of its own."""
        name = self.spec.name
        row = connection.execute(
            sa.select(studies.c.target, studies.c.paused, studies.c.confirm)
            .where(studies.c.name == name)
            .with_for_update()  # the study's lock
        ).one()
        with opened.within(connection) as study:
            left = self._left_behind(connection, opened, study, row.target)
            if left is not None:
                return left
            if row.paused is not None:
                return Nothing("paused", str(row.paused))
            counts = tally(connection, name)
            if counts.finished >= row.target:
                if counts.to_confirm(row.confirm):
                    return self._confirming(connection, opened, study)
                return Nothing("wait" if counts.confirming_now else "finished")
            if counts.finished + counts.running >= row.target:
                return Nothing("wait")
            return self._new(connection, opened, study)

    def _new(self, connection: sa.Connection, opened: OpenStudy, study: optuna.Study) -> Claim:
        trial = opened.ask()
        failpoint("claim.asked")
        study.sampler = sampler_for(self.spec, trial.number)
        params = suggest(self.spec, trial)
        lease = Lease(self.spec.name, trial.number, trial._trial_id, 1, self.worker)  # noqa: SLF001
        lease_rows.grant(connection, lease, seconds=self.lease_s, epochs_before=0)
        failpoint("claim.granted")
        return Claim(lease, params, 1, None, (), None)

    def _confirming(
        self, connection: sa.Connection, opened: OpenStudy, study: optuna.Study
    ) -> Claim:
        source = next_source(connection, self.spec)
        trial = make_trial(connection, opened, study, source)
        failpoint("confirm.made")
        lease = Lease(self.spec.name, trial.number, trial._trial_id, 1, self.worker)  # noqa: SLF001
        before = _epochs_of(connection, self.spec.name, trial.number)
        lease_rows.grant(connection, lease, seconds=self.lease_s, epochs_before=before)
        failpoint("claim.granted")
        params = suggest(self.spec, trial)
        return Claim(lease, params, 1, None, _stored_folds(connection, lease), None, source)

    def _left_behind(
        self, connection: sa.Connection, opened: OpenStudy, study: optuna.Study, target: int
    ) -> Claim | None:
        candidates = self._candidates(connection)
        for row in self._within_budget(connection, candidates, target) if candidates else ():
            reported = _epochs_of(connection, self.spec.name, row.trial)
            lease = lease_rows.take(
                connection,
                self.spec.name,
                row.trial,
                row.token,
                worker=self.worker,
                seconds=self.lease_s,
                epochs_before=reported,
            )
            if lease is None:
                continue
            if row.worker is not None and self.is_dead(row.worker):
                bury(connection, row.worker)
            if self._hopeless(connection, lease, reported):
                message = f"{LOST_IN_A_ROW} workers in a row died on it"
                fail(connection, study, lease, "killed", message)
                continue
            failpoint("claim.adopted")
            return self._adopted(connection, opened, lease, row.holder)
        return None

    def _candidates(self, connection: sa.Connection) -> list[_Left]:
        """Trials without a living holder: ours of a claim that we never heard of come first."""
        self._drop_finished(connection)
        over = lease_rows.expired(connection)
        rows = connection.execute(
            sa.select(
                leases.c.trial,
                leases.c.token,
                leases.c.worker,
                sa.func.coalesce(workers.c.name, "").label("holder"),
                sa.or_(leases.c.worker.is_(None), leases.c.worker == self.worker).label("free"),
                over.label("over"),
            )
            .select_from(leases.outerjoin(workers, workers.c.id == leases.c.worker))
            .where(leases.c.study == self.spec.name)
            .order_by(leases.c.trial)
        ).all()
        judge = any(row.over and not row.free for row in rows) and self.may_judge(connection)
        return [
            row
            for row in rows
            if row.free or (row.over and judge) or (row.worker and self.is_dead(row.worker))
        ]

    def _within_budget(
        self, connection: sa.Connection, candidates: list[_Left], target: int
    ) -> list[_Left]:
        """Those of them that the budget still has, where it was lowered below what had begun."""
        counts = tally(connection, self.spec.name)
        exempt = set(connection.execute(confirming(self.spec.name)).scalars())
        counted = [row.trial for row in candidates if row.trial not in exempt]
        held = counts.running - len(counted)
        more = set(counted[: max(0, target - counts.finished - held)])
        return [row for row in candidates if row.trial in exempt | more]

    def _drop_finished(self, connection: sa.Connection) -> None:
        """Forget leases of trials that another program has finished."""
        running = (
            trials_of(self.spec.name)
            .with_only_columns(optuna_trials.c.number)
            .where(optuna_trials.c.state == sa.literal_column("'RUNNING'"))
        )
        connection.execute(
            sa.delete(leases).where(
                leases.c.study == self.spec.name, leases.c.trial.not_in(running)
            )
        )

    def _hopeless(self, connection: sa.Connection, lease: Lease, reported: int) -> bool:
        """Whether holders keep dying on it without getting anywhere."""
        rows = connection.execute(
            sa.select(attempts.c.outcome, attempts.c.epochs_before)
            .where(
                attempts.c.study == lease.study,
                attempts.c.trial == lease.trial,
                attempts.c.token < lease.token,
            )
            .order_by(attempts.c.token.desc())
            .limit(LOST_IN_A_ROW)
        ).all()
        return len(rows) == LOST_IN_A_ROW and all(
            row.outcome == "lost" and row.epochs_before == reported for row in rows
        )

    def _adopted(
        self, connection: sa.Connection, opened: OpenStudy, lease: Lease, holder: str
    ) -> Claim:
        trial = opened.adopt(lease.trial_id)
        decided = connection.execute(
            sa.select(decisions.c.reason).where(
                decisions.c.study == lease.study, decisions.c.trial == lease.trial
            )
        ).scalar()
        params = suggest(self.spec, trial)  # as they were drawn; a half-drawn trial cannot exist
        before = _last_holder(connection, lease) or holder
        reports = _stored_folds(connection, lease)
        source = source_of(connection, lease.study, lease.trial)
        return Claim(lease, params, lease.token, before, reports, decided, source)


def _stored_folds(connection: sa.Connection, lease: Lease) -> tuple[FoldReport, ...]:
    stored = connection.execute(
        sa.select(folds.c.report)
        .where(folds.c.study == lease.study, folds.c.trial == lease.trial)
        .order_by(folds.c.fold)
    ).scalars()
    with trusting(lease.study):
        return tuple(_fold_from(json.loads(text)) for text in stored)


def _fold_from(stored: Mapping[str, Any]) -> FoldReport:
    fold = FoldReport(**stored)
    if not (isinstance(fold.fold, int) and math.isfinite(fold.score)):
        raise ValueError(fold.fold)
    return fold


def _last_holder(connection: sa.Connection, lease: Lease) -> str | None:
    return connection.execute(
        sa.select(attempts.c.worker_name)
        .where(
            attempts.c.study == lease.study,
            attempts.c.trial == lease.trial,
            attempts.c.token < lease.token,
        )
        .order_by(attempts.c.token.desc())
        .limit(1)
    ).scalar()


def _epochs_of(connection: sa.Connection, study: str, trial: int) -> int:
    counted = sa.select(sa.func.count()).where(epochs.c.study == study, epochs.c.trial == trial)
    return int(connection.execute(counted).scalar_one())


def finish_orphans(connection: sa.Connection, opened: OpenStudy) -> int:
    """Fail running trials without a lease: another program made them. How many there were."""
    lock_study(connection, opened.name)  # or a claim just made would look like one
    with opened.within(connection) as study:
        held = set(
            connection.execute(
                sa.select(leases.c.trial).where(leases.c.study == study.study_name)
            ).scalars()
        )
        orphans = [
            trial.number
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if trial.number not in held
        ]
        for number in orphans:
            study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    return len(orphans)
