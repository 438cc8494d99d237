"""Who works on a study, how fast it goes, and when anybody was last heard of, by plain SQL."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from criteria_cli.hpo.facts import WorkerStatus
from criteria_cli.hpo.health import Pace, Worked, pace_of
from criteria_cli.hpo.tables import attempts, epochs, folds, workers

RECENT_S = 86_400.0
"""Workers that left or were lost longer ago are not shown."""
PACE_ATTEMPTS = 500
"""The latest attempts, of which the pace is taken."""

_NUMBERS = (
    "trial", "fold", "epoch", "last_score", "best_score", "seconds", "examples_per_s",
    "memory_bytes",
)  # fmt: skip
"""What `Live.progress` says of a trial."""


def workers_of(
    connection: sa.Connection, name: str, at: float, lease_s: float
) -> tuple[WorkerStatus, ...]:
    """Workers that have not left; one silent for longer than a lease is lost."""
    done: dict[str, dict[str, int]] = {}
    for worker, outcome, count in connection.execute(
        sa.select(attempts.c.worker, attempts.c.outcome, sa.func.count())
        .where(attempts.c.study == name, attempts.c.outcome.is_not(None))
        .group_by(attempts.c.worker, attempts.c.outcome)
    ):
        done.setdefault(worker, {})[outcome] = count
    rows = connection.execute(
        sa.select(workers)
        .where(
            workers.c.study == name,
            workers.c.ended_at.is_(None),
            workers.c.seen_at > at - RECENT_S,
        )
        .order_by(workers.c.name, workers.c.started_at.desc())
    ).all()
    seen: dict[str, WorkerStatus] = {}
    for row in rows:
        if row.name not in seen:  # an older row of this name was a worker that died
            seen[row.name] = _worker(row, done.get(row.id, {}), at, lease_s)
    return tuple(seen.values())


def _worker(row: Any, done: Mapping[str, int], at: float, lease_s: float) -> WorkerStatus:
    facts = json.loads(row.progress) if row.progress else {}
    for name in _NUMBERS:
        if not isinstance(facts.get(name), int | float | None):
            raise TypeError(name)
    age = max(0.0, at - row.seen_at)
    trial = facts.get("trial")
    return WorkerStatus(
        name=row.name,
        machine=row.machine,
        device=row.device,
        device_name=row.device_name or None,
        state="lost" if age > lease_s else row.state,
        trial=trial,
        fold=facts.get("fold"),
        epoch=facts.get("epoch"),
        heartbeat_age_s=age,
        last_score=facts.get("last_score"),
        best_score=facts.get("best_score"),
        trial_age_s=facts["seconds"] + age if trial is not None else None,
        examples_per_s=facts.get("examples_per_s"),
        memory_bytes=facts.get("memory_bytes"),
        done=done.get("complete", 0) + done.get("pruned", 0),
        failed=done.get("failed", 0) + done.get("retried", 0),
    )


def pace_now(
    connection: sa.Connection, name: str, at: float, *, left: int, live: int, fold_count: int
) -> Pace:
    """How fast trials finish lately, and when the rest will be done."""
    ended = sa.func.coalesce(attempts.c.ended_at, at)
    rows = connection.execute(
        sa.select(attempts.c.started_at, attempts.c.ended_at, attempts.c.outcome, workers.c.seen_at)
        .join(workers, workers.c.id == attempts.c.worker, isouter=True)
        .where(attempts.c.study == name)
        .order_by(ended.desc())
        .limit(PACE_ATTEMPTS)
    )
    worked = []
    for row in rows:
        end = at if row.ended_at is None else row.ended_at
        if row.outcome in (None, "lost") and row.seen_at is not None:
            end = min(end, row.seen_at)  # a dead worker's time is not work
        finished = row.outcome in ("complete", "pruned")
        worked.append(Worked(at - row.started_at, max(0.0, at - end), finished))
    pace = pace_of(worked, left=left, live=live)
    if pace.eta_s is None and live:
        each = _seconds_of_a_fold(connection, name)
        if each is not None:
            pace = replace(pace, most_s=each * fold_count * left / min(live, left))
    return pace


def _seconds_of_a_fold(connection: sa.Connection, name: str) -> float | None:
    finished = sa.select(sa.func.count()).where(folds.c.study == name).scalar_subquery()
    total, count = connection.execute(
        sa.select(sa.func.sum(epochs.c.seconds), finished)
        .select_from(folds)
        .join(
            epochs,
            sa.and_(
                epochs.c.study == folds.c.study,
                epochs.c.trial == folds.c.trial,
                epochs.c.fold == folds.c.fold,
            ),
        )
        .where(folds.c.study == name)
    ).one()
    return total / count if total and count else None


def last_event_age(connection: sa.Connection, name: str, at: float) -> float | None:
    """Seconds since a trial began or ended or a worker was heard of."""
    last = connection.execute(
        sa.select(sa.func.max(sa.func.coalesce(attempts.c.ended_at, attempts.c.started_at))).where(
            attempts.c.study == name
        )
    ).scalar()
    seen = connection.execute(
        sa.select(sa.func.max(workers.c.seen_at)).where(workers.c.study == name)
    ).scalar()
    latest = max((time for time in (last, seen) if time is not None), default=None)
    return None if latest is None else max(0.0, at - latest)


def versions_of(connection: sa.Connection, name: str) -> list[dict[str, str]]:
    """Versions of the workers that have not left, each once."""
    rows = connection.execute(
        sa.select(workers.c.versions)
        .where(workers.c.study == name, workers.c.ended_at.is_(None))
        .distinct()
    ).scalars()
    return [json.loads(text) for text in rows]
