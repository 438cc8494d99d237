"""Who may report on a trial: one row a trial, one statement to take, keep or give it back.

A lease runs on the database's clock. Its token grows with every holder and goes with every write,
so a worker that slept through its lease changes nothing when it wakes.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from criteria_cli.hpo.clock import boot_id, lease_clock, now
from criteria_cli.hpo.tables import attempts, leases, workers


class LeaseLost(Exception):
    """Somebody else goes on with the trial: report nothing, take another."""


@dataclass(frozen=True)
class Lease:
    """The right to report on a trial."""

    study: str
    trial: int
    trial_id: int
    """Optuna's key."""
    token: int
    worker: str
    """The holder's id."""


def boot_of(connection: sa.Connection) -> str:
    """Whose clock the leases of this store run on: PostgreSQL's own, or this boot of this host."""
    return boot_id() if connection.dialect.name == "sqlite" else ""


def expired(connection: sa.Connection) -> sa.ColumnElement[bool]:
    """True for leases that ran out, or that a boot before this one held."""
    return sa.or_(
        leases.c.boot != boot_of(connection),
        leases.c.expires_at < lease_clock(),
    )


def recently_started(connection: sa.Connection, seconds: float) -> bool:
    """Whether the database server was started less than so long ago: nobody could renew."""
    if connection.dialect.name == "sqlite":
        return False
    age = connection.execute(
        sa.select(now() - sa.text("extract(epoch from pg_postmaster_start_time())"))
    ).scalar_one()
    return float(age) < seconds


def grant(connection: sa.Connection, lease: Lease, *, seconds: float, epochs_before: int) -> None:
    """Write the first lease of a new trial, and its attempt."""
    connection.execute(
        sa.insert(leases).values(
            study=lease.study,
            trial=lease.trial,
            trial_id=lease.trial_id,
            worker=lease.worker,
            token=lease.token,
            expires_at=lease_clock() + seconds,
            boot=boot_of(connection),
        )
    )
    _begin_attempt(connection, lease, epochs_before)


def take(
    connection: sa.Connection,
    study: str,
    trial: int,
    token: int,
    *,
    worker: str,
    seconds: float,
    epochs_before: int,
) -> Lease | None:
    """Take over a trial whose lease is free or has run out, as `token` saw it; None if it changed.

    Compare-and-swap on the token: of several rivals one wins.
    """
    row = connection.execute(
        sa.update(leases)
        .where(leases.c.study == study, leases.c.trial == trial, leases.c.token == token)
        .values(
            worker=worker,
            token=leases.c.token + 1,
            expires_at=lease_clock() + seconds,
            boot=boot_of(connection),
        )
        .returning(leases.c.trial_id, leases.c.token)
    ).one_or_none()
    if row is None:
        return None
    lease = Lease(study, trial, row.trial_id, row.token, worker)
    connection.execute(
        sa.update(attempts)
        .where(
            attempts.c.study == study,
            attempts.c.trial == trial,
            attempts.c.token == token,
            attempts.c.ended_at.is_(None),
        )
        .values(ended_at=now(), outcome="lost")
    )
    _begin_attempt(connection, lease, epochs_before)
    return lease


def renew(connection: sa.Connection, lease: Lease, *, seconds: float) -> bool:
    """Keep a lease for so long from now; False if it is somebody else's."""
    done = connection.execute(
        sa.update(leases)
        .where(_mine(lease))
        .values(expires_at=lease_clock() + seconds, boot=boot_of(connection))
    )
    return done.rowcount == 1


def give_back(connection: sa.Connection, lease: Lease) -> bool:
    """Leave the trial to whoever is free next; False if it is somebody else's already."""
    done = connection.execute(sa.update(leases).where(_mine(lease)).values(worker=None))
    return done.rowcount == 1


def hold(connection: sa.Connection, lease: Lease) -> None:
    """Make sure, until the end of the transaction, that the lease is ours.

    Raises:
        LeaseLost: it is not.
    """
    held = sa.select(leases.c.token).where(_mine(lease)).with_for_update()
    if connection.execute(held).scalar() is None:
        raise LeaseLost(f"trial {lease.trial}")


def end(connection: sa.Connection, lease: Lease) -> None:
    """Remove the lease of a finished trial."""
    connection.execute(sa.delete(leases).where(_mine(lease)))


def _mine(lease: Lease) -> sa.ColumnElement[bool]:
    return sa.and_(
        leases.c.study == lease.study,
        leases.c.trial == lease.trial,
        leases.c.token == lease.token,
        leases.c.worker == lease.worker,
    )


def _begin_attempt(connection: sa.Connection, lease: Lease, epochs_before: int) -> None:
    me = sa.select(
        sa.literal(lease.study),
        sa.literal(lease.trial),
        sa.literal(lease.token),
        workers.c.id,
        workers.c.name,
        workers.c.machine,
        sa.literal(epochs_before),
        now(),
    ).where(workers.c.id == lease.worker)
    columns = ["study", "trial", "token", "worker", "worker_name", "machine", "epochs_before"]
    connection.execute(sa.insert(attempts).from_select([*columns, "started_at"], me))
