"""A worker's own row in the store, the study's precision, and stored memory models."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from criteria_cli.errors import UsageError
from criteria_cli.hpo.clock import boot_id, now
from criteria_cli.hpo.reports import upsert
from criteria_cli.hpo.tables import attempts, leases, probes, studies, workers


@dataclass(frozen=True)
class WorkerRow:
    """Who a worker is."""

    id: str
    study: str
    device: str
    """`cpu` or `cuda:N`."""
    versions: Mapping[str, str]


def machine_name() -> str:
    return socket.gethostname().partition(".")[0]


def wanted_name(device: str, environ: Mapping[str, str] = os.environ) -> str:
    """A worker's name: `CRITERIA_WORKER`, its SLURM task, or machine and device."""
    given = environ.get("CRITERIA_WORKER")
    if given:
        return given[:150]
    place = device.removeprefix("cuda:")
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"slurm-{array}_{task}"
    if environ.get("SLURM_JOB_ID"):
        return f"slurm-{environ['SLURM_JOB_ID']}:{place}"
    return f"{machine_name()}:{place}"


def lock_study(connection: sa.Connection, name: str) -> str | None:
    """Hold the study's lock, one holder at a time, until the end of the transaction; its uid."""
    held = sa.select(studies.c.uid).where(studies.c.name == name).with_for_update()
    return connection.execute(held).scalar()


def register(
    connection: sa.Connection,
    row: WorkerRow,
    *,
    name: str,
    uid: str,
    stale_s: float,
    shared: bool,
    is_dead: Callable[[str], bool] = lambda _: False,
) -> str:
    """Write a worker's row; its name, with a number if another live worker has it.

    Args:
        uid: of the study that the worker has prepared for.
        stale_s: a worker not seen for so long counts as gone.
        shared: whether the store may be used from several machines.
        is_dead: whether a worker, by id, is known to have died; its name is free again.

    Raises:
        UsageError: workers of another machine use this SQLite file, or the study was made anew.
    """
    # two in the same instant would take the same name
    if lock_study(connection, row.study) != uid:
        raise UsageError(
            f"study `{row.study}` was made anew with other settings while this worker came",
            hint="run the same command again",
            code="study.differs",
        )
    connection.execute(sa.delete(workers).where(workers.c.id == row.id))  # of a try before
    live = connection.execute(
        sa.select(workers.c.id, workers.c.name, workers.c.machine, workers.c.boot).where(
            workers.c.study == row.study,
            workers.c.ended_at.is_(None),
            workers.c.seen_at > now() - stale_s,
        )
    ).all()
    dead = {other.id for other in live if is_dead(other.id)}
    for worker in dead:
        bury(connection, worker)
    live = [other for other in live if other.id not in dead]
    if not shared:
        for other in live:
            if other.boot != boot_id():
                raise UsageError(
                    f"storage: worker `{other.name}` on `{other.machine}` uses this SQLite file, "
                    "which only one machine can share",
                    hint="use PostgreSQL for several machines",
                    code="storage.second_host",
                )
    taken, free, number = {other.name for other in live}, name, 1
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    connection.execute(
        sa.insert(workers).values(
            id=row.id,
            study=row.study,
            name=free,
            machine=machine_name(),
            boot=boot_id(),
            device=row.device,
            state="start",
            versions=json.dumps(dict(row.versions)),
            started_at=now(),
            seen_at=now(),
        )
    )
    return free


def bury(connection: sa.Connection, worker: str) -> None:
    """A worker that is known to have died is no longer waited for."""
    connection.execute(
        sa.update(workers)
        .where(workers.c.id == worker, workers.c.ended_at.is_(None))
        .values(ended_at=now())
    )


def ready(connection: sa.Connection, row: WorkerRow, *, device_name: str, precision: str) -> None:
    """Note that the worker's trainer is ready, and hold all workers to one precision.

    Raises:
        UsageError: others of this study compute in another precision.
    """
    mine = sa.update(studies).where(studies.c.name == row.study)
    connection.execute(mine.where(studies.c.precision.is_(None)).values(precision=precision))
    stored = connection.execute(
        sa.select(studies.c.precision).where(studies.c.name == row.study)
    ).scalar_one()
    if stored != precision:
        raise UsageError(
            f"study `{row.study}` computes in {stored}, here `training.precision` is {precision}",
            hint=f"trials of both cannot be compared; use devices that have {stored}, or another "
            "study with `--set training.precision=fp32`",
            code="study.precision_differs",
        )
    connection.execute(
        sa.update(workers)
        .where(workers.c.id == row.id)
        .values(device_name=device_name[:200], state="idle", seen_at=now())
    )


def beat(
    connection: sa.Connection, worker: str, *, state: str, progress: Mapping[str, Any]
) -> None:
    """Say that the worker lives, and what it does."""
    connection.execute(
        sa.update(workers)
        .where(workers.c.id == worker)
        .values(state=state, progress=json.dumps(dict(progress)), seen_at=now())
    )


def leave(connection: sa.Connection, worker: str) -> None:
    """Give back whatever the worker holds and say that it has ended."""
    held = connection.execute(
        sa.update(leases)
        .where(leases.c.worker == worker)
        .values(worker=None)
        .returning(leases.c.study, leases.c.trial, leases.c.token)
    ).all()
    for study, trial, token in held:
        connection.execute(
            sa.update(attempts)
            .where(
                attempts.c.study == study,
                attempts.c.trial == trial,
                attempts.c.token == token,
                attempts.c.ended_at.is_(None),
            )
            .values(ended_at=now(), outcome="yielded")
        )
    connection.execute(
        sa.update(workers)
        .where(workers.c.id == worker)
        .values(state="idle", progress=None, seen_at=now(), ended_at=now())
    )


def keep_probe(connection: sa.Connection, key: str, model: Mapping[str, Any]) -> None:
    """Keep a device's memory model."""
    upsert(connection, probes, {"key": key, "model": json.dumps(dict(model)), "made_at": now()})


def known_probes(connection: sa.Connection) -> dict[str, Any]:
    """All stored memory models, by key."""
    rows = connection.execute(sa.select(probes.c.key, probes.c.model))
    return {str(key): json.loads(model) for key, model in rows}
