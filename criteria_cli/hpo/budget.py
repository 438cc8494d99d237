"""Whether a trial that has begun still belongs to the budget, once that was lowered.

Claims never begin more than the budget has (`claims`). `--trials` may lower it below what has
begun: then the trials that were begun first go on, as many as it still has, and the others are
given back with everything saved. They wait, and go on when it is raised again.
"""

from __future__ import annotations

import sqlalchemy as sa

from criteria_cli.hpo.confirmations import Tally, tally
from criteria_cli.hpo.leases import Lease
from criteria_cli.hpo.rows import lock_study
from criteria_cli.hpo.tables import confirmations, leases, studies


def is_over(connection: sa.Connection, lease: Lease) -> bool:
    """Whether a trial under way is to be given back, for others began before it."""
    target, counts = _counted(connection, lease.study)
    if counts.finished + counts.running <= target or _confirms(connection, lease):
        return False
    earlier = connection.execute(
        sa.select(sa.func.count()).where(
            leases.c.study == lease.study,
            leases.c.worker.is_not(None),
            leases.c.trial < lease.trial,
            leases.c.trial.not_in(confirming(lease.study)),
        )
    ).scalar_one()
    return counts.finished + int(earlier) >= target


def may_finish(connection: sa.Connection, lease: Lease) -> bool:
    """Whether one more trial may finish; if so, nobody else's does before this transaction ends."""
    target, counts = _counted(connection, lease.study)
    if counts.finished + counts.running <= target or _confirms(connection, lease):
        return True
    lock_study(connection, lease.study)
    target, counts = _counted(connection, lease.study)
    return counts.finished < target


def confirming(study: str) -> sa.Select[tuple[int]]:
    """Numbers of the trials that confirm another, which the budget does not count."""
    return sa.select(confirmations.c.trial).where(confirmations.c.study == study)


def _counted(connection: sa.Connection, study: str) -> tuple[int, Tally]:
    target = connection.execute(sa.select(studies.c.target).where(studies.c.name == study))
    return int(target.scalar_one()), tally(connection, study)


def _confirms(connection: sa.Connection, lease: Lease) -> bool:
    listed = confirming(lease.study).where(confirmations.c.trial == lease.trial)
    return connection.execute(listed).first() is not None
