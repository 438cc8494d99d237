"""What a study looks like now: read by plain SQL in one transaction that cannot write.

Optuna is not imported, and no row per trial is fetched: ten thousand trials take a fraction of a
second where `study.trials` takes eighteen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from criteria_cli.errors import StoreError, UsageError
from criteria_cli.hpo import optuna_tables as optuna
from criteria_cli.hpo.clock import now
from criteria_cli.hpo.engine import reading_engine
from criteria_cli.hpo.facts import (
    BestTrial,
    FailureGroup,
    PruningStatus,
    RungCount,
    StudyStatus,
    TrialCounts,
    WorkerStatus,
)
from criteria_cli.hpo.health import Pace, pace_of, state_of, troubles_of
from criteria_cli.hpo.leases import expired
from criteria_cli.hpo.schema import check_versions, read_versions
from criteria_cli.hpo.tables import attempts, decisions, folds, leases, studies, workers
from criteria_cli.hpo.timings import Timings
from criteria_cli.hpo.trouble import store_error
from criteria_cli.hpo.url import StoreUrl, read_url
from criteria_cli.study.spec import Scalar

LEADERS = 5
RECENT_S = 86_400.0
"""Workers that left or were lost longer ago are not shown."""

T = TypeVar("T")


def read_study(storage: str, name: str) -> StudyStatus:
    """One study.

    Raises:
        UsageError: no study of this name, naming those that exist.
        StoreError: the store cannot be read.
    """

    def read(connection: sa.Connection) -> StudyStatus:
        names = _names(connection)
        if name not in names:
            there = f"there are: {', '.join(names)}" if names else "it is empty"
            raise UsageError(f"no study `{name}` in this storage, {there}", code="study.unknown")
        return status_of(connection, name)

    return reading(read_url(storage), read)


def read_study_at(url: StoreUrl, name: str, lease_s: float) -> StudyStatus:
    """One study that is known to exist."""
    return reading(url, lambda connection: status_of(connection, name, lease_s=lease_s))


def read_studies(storage: str) -> tuple[StudyStatus, ...]:
    """Every study, the latest first.

    Raises:
        StoreError: the store cannot be read.
    """
    return reading(
        read_url(storage),
        lambda connection: tuple(status_of(connection, name) for name in _names(connection)),
    )


def study_names(storage: str) -> tuple[str, ...]:
    """Names of all studies, the latest first."""
    return reading(read_url(storage), _names)


def reading(url: StoreUrl, read: Callable[[sa.Connection], T]) -> T:
    """Do something in one transaction that cannot write.

    Raises:
        StoreError: the store cannot be read.
    """
    if url.is_sqlite and not url.path.exists():
        raise StoreError(
            f"storage: `{url.label}` does not exist",
            hint="`criteria hpo STUDY` makes it; another one is given by `--storage`",
            code="store.missing",
        )
    engine = reading_engine(url)
    try:
        with engine.begin() as connection:
            found = read_versions(connection)
            check_versions(found)
            if found.ours is None:
                raise StoreError(
                    f"storage: `{url.label}` holds no studies of criteria",
                    hint="`criteria hpo STUDY` makes the first",
                    code="store.empty",
                )
            return read(connection)
    except sa.exc.SQLAlchemyError as error:
        raise store_error(error, url) from error
    finally:
        engine.dispose()


def _names(connection: sa.Connection) -> tuple[str, ...]:
    listed = sa.select(studies.c.name).order_by(studies.c.created_at.desc(), studies.c.name)
    return tuple(connection.execute(listed).scalars())


def status_of(
    connection: sa.Connection, name: str, *, lease_s: float = Timings().lease
) -> StudyStatus:
    """One study, in the connection's transaction."""
    row = connection.execute(
        sa.select(studies, now().label("now")).where(studies.c.name == name)
    ).one()
    definition = json.loads(row.definition)
    validation = definition["validation"]
    fold_count = validation["folds"] if validation["scheme"] == "kfold" else 1
    counts = _counts(connection, name)
    team = _workers(connection, name, row.now, lease_s)
    leaders = _leaders(connection, name, row.now)
    live = [worker for worker in team if worker.state != "lost"]
    pace = _pace(connection, name, row, counts, len(live))
    failures = _failures(connection, name)
    pruning = _pruning(connection, name, counts, fold_count)
    state = state_of(counts, row.target, row.paused, bool(live))
    return StudyStatus(
        name=name,
        state=state,
        target=row.target,
        metric=validation["metric"],
        folds=fold_count,
        epochs=definition["training"]["epochs"],
        trials=counts,
        best=leaders[0] if leaders else None,
        leaders=leaders,
        eta_s=pace.eta_s if live or state == "finished" else None,
        eta_range_s=pace.range_s if live else None,
        rate_per_hour=pace.per_hour,
        age_s=row.now - row.created_at,
        last_event_age_s=_last_event_age(connection, name, row.now),
        pruning=pruning,
        failures=failures,
        workers=team,
        adopted=_adopted(connection, name),
        data_sha256=row.data_sha256,
        versions=json.loads(row.versions),
        now=datetime.fromtimestamp(row.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        troubles=troubles_of(
            name,
            state=state,
            paused=row.paused,
            counts=counts,
            team=team,
            failures=failures,
            pruner=definition["pruner"]["type"],
            startup=definition["pruner"]["startup_trials"],
            pace=pace,
            versions=_versions(connection, name),
        ),
    )


def _counts(connection: sa.Connection, name: str) -> TrialCounts:
    states = optuna.trial_counts(connection, name)
    held = connection.execute(
        sa.select(sa.func.count()).where(
            leases.c.study == name, leases.c.worker.is_not(None), sa.not_(expired(connection))
        )
    ).scalar_one()
    return TrialCounts(
        complete=states.get("COMPLETE", 0),
        pruned=states.get("PRUNED", 0),
        failed=states.get("FAIL", 0),
        running=min(held, states.get("RUNNING", 0)),
        waiting=max(0, states.get("RUNNING", 0) - held) + states.get("WAITING", 0),
    )


def _leaders(connection: sa.Connection, name: str, at: float) -> tuple[BestTrial, ...]:
    top = connection.execute(
        sa.select(optuna.trials.c.trial_id, optuna.trials.c.number, optuna.trial_values.c.value)
        .select_from(optuna.trials)
        .join(optuna.studies, optuna.studies.c.study_id == optuna.trials.c.study_id)
        .join(optuna.trial_values, optuna.trial_values.c.trial_id == optuna.trials.c.trial_id)
        .where(
            optuna.studies.c.study_name == name,
            optuna.trials.c.state == sa.literal_column("'COMPLETE'"),
        )
        .order_by(optuna.trial_values.c.value.desc(), optuna.trials.c.number)
        .limit(LEADERS)
    ).all()
    ids = [row.trial_id for row in top]
    numbers = [row.number for row in top]
    params = params_of(connection, ids)
    scores: dict[int, list[float]] = {number: [] for number in numbers}
    for trial, score in connection.execute(
        sa.select(folds.c.trial, folds.c.score)
        .where(folds.c.study == name, folds.c.trial.in_(numbers))
        .order_by(folds.c.trial, folds.c.fold)
    ):
        scores[trial].append(score)
    ended = {
        row.trial: row
        for row in connection.execute(
            sa.select(attempts.c.trial, attempts.c.ended_at, attempts.c.worker_name).where(
                attempts.c.study == name,
                attempts.c.trial.in_(numbers),
                attempts.c.outcome == "complete",
            )
        )
    }
    return tuple(
        BestTrial(
            trial=row.number,
            value=row.value,
            params=params.get(row.trial_id, {}),
            fold_scores=tuple(scores[row.number]),
            age_s=at - ended[row.number].ended_at if row.number in ended else None,
            worker=ended[row.number].worker_name if row.number in ended else None,
        )
        for row in top
    )


def params_of(connection: sa.Connection, trial_ids: list[int]) -> dict[int, dict[str, Scalar]]:
    """Parameters by trial, as they were sampled."""
    rows = connection.execute(
        sa.select(optuna.trial_params)
        .where(optuna.trial_params.c.trial_id.in_(trial_ids))
        .order_by(optuna.trial_params.c.param_id)
    )
    found: dict[int, dict[str, Scalar]] = {}
    for row in rows:
        found.setdefault(row.trial_id, {})[row.param_name] = _external(
            row.param_value, json.loads(row.distribution_json)
        )
    return found


def _external(value: float, distribution: Mapping[str, Any]) -> Scalar:
    """A stored parameter as people know it."""
    attributes = distribution["attributes"]
    match distribution["name"]:
        case "CategoricalDistribution":
            chosen: Scalar = attributes["choices"][int(value)]
            return chosen
        case "IntDistribution":
            return int(value)
        case _:
            return float(value)


def _pruning(
    connection: sa.Connection, name: str, counts: TrialCounts, fold_count: int
) -> PruningStatus:
    run = connection.execute(
        sa.select(sa.func.count())
        .select_from(folds)
        .join(
            attempts,
            sa.and_(
                attempts.c.study == folds.c.study,
                attempts.c.trial == folds.c.trial,
                attempts.c.outcome.in_(("complete", "pruned")),
            ),
        )
        .where(folds.c.study == name)
    ).scalar_one()
    full = counts.finished * fold_count
    rungs = tuple(
        RungCount(reason, fold, epoch, count)
        for reason, fold, epoch, count in connection.execute(
            sa.select(decisions.c.reason, decisions.c.fold, decisions.c.epoch, sa.func.count())
            .where(decisions.c.study == name)
            .group_by(decisions.c.reason, decisions.c.fold, decisions.c.epoch)
            .order_by(decisions.c.fold, decisions.c.epoch, decisions.c.reason)
        )
    )
    by_reason: dict[str, int] = {}
    for rung in rungs:
        by_reason[rung.reason] = by_reason.get(rung.reason, 0) + rung.pruned
    return PruningStatus(
        folds_run=run,
        folds_full=full,
        saved_fraction=1 - run / full if full else None,
        by_reason=by_reason,
        by_rung=rungs,
    )


def _failures(connection: sa.Connection, name: str) -> tuple[FailureGroup, ...]:
    rows = connection.execute(
        sa.select(attempts.c.cause, attempts.c.machine, attempts.c.trial, attempts.c.message)
        .where(attempts.c.study == name, attempts.c.cause.is_not(None))
        .order_by(attempts.c.ended_at)
    ).all()
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        groups.setdefault((row.cause, row.machine), []).append(row)
    return tuple(
        FailureGroup(
            cause=cause,
            machine=machine,
            count=len(members),
            trials=tuple(sorted({row.trial for row in members})),
            message=members[-1].message or "",
        )
        for (cause, machine), members in sorted(groups.items(), key=lambda item: -len(item[1]))
    )


def _workers(
    connection: sa.Connection, name: str, at: float, lease_s: float
) -> tuple[WorkerStatus, ...]:
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


def _pace(connection: sa.Connection, name: str, row: Any, counts: TrialCounts, live: int) -> Pace:
    ends = connection.execute(
        sa.select(attempts.c.ended_at, attempts.c.worker)
        .where(attempts.c.study == name, attempts.c.outcome.in_(("complete", "pruned")))
        .order_by(attempts.c.ended_at.desc())
        .limit(500)
    ).all()
    return pace_of(
        [(row.now - end, worker) for end, worker in ends],
        age_s=row.now - row.created_at,
        left=max(0, row.target - counts.finished),
        live=live,
    )


def _last_event_age(connection: sa.Connection, name: str, at: float) -> float | None:
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


def _adopted(connection: sa.Connection, name: str) -> int:
    counted = sa.select(sa.func.count()).where(attempts.c.study == name, attempts.c.token > 1)
    return int(connection.execute(counted).scalar_one())


def _versions(connection: sa.Connection, name: str) -> list[dict[str, str]]:
    """Versions of the workers that have not left, each once."""
    rows = connection.execute(
        sa.select(workers.c.versions)
        .where(workers.c.study == name, workers.c.ended_at.is_(None))
        .distinct()
    ).scalars()
    return [json.loads(text) for text in rows]
