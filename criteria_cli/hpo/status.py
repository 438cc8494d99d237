"""What a study looks like now: read by plain SQL in one transaction that cannot write.

Optuna is not imported, and no row per trial is fetched: ten thousand trials take a fraction of a
second where `study.trials` takes eighteen.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from criteria_cli.errors import StoreError, UsageError
from criteria_cli.hpo.clock import now
from criteria_cli.hpo.confirmations import Tally, tally
from criteria_cli.hpo.engine import reading_engine
from criteria_cli.hpo.facts import (
    FailureGroup,
    StudyStatus,
    TrialCounts,
)
from criteria_cli.hpo.health import state_of, troubles_of
from criteria_cli.hpo.leaders import leaders_of
from criteria_cli.hpo.leases import expired
from criteria_cli.hpo.savings import pruning_of
from criteria_cli.hpo.schema import check_versions, read_versions
from criteria_cli.hpo.spent import spent_lately
from criteria_cli.hpo.tables import attempts, leases, studies
from criteria_cli.hpo.team import last_event_age, pace_now, versions_of, workers_of
from criteria_cli.hpo.timings import Timings
from criteria_cli.hpo.trouble import damaged_study, store_error, trusting
from criteria_cli.hpo.url import StoreUrl, read_url
from criteria_cli.study.explain import did_you_mean

T = TypeVar("T")
NAMED = 10
"""Studies that a message lists at most."""


def read_study(storage: str, name: str) -> StudyStatus:
    """One study.

    Raises:
        UsageError: no study of this name, naming those that exist.
        StoreError: the store cannot be read.
    """

    def read(connection: sa.Connection) -> StudyStatus:
        names = _names(connection)
        if name not in names:
            close = did_you_mean(name, names)
            raise UsageError(
                f"no study `{name}` in this storage{close or f', {_there(names)}'}",
                code="study.unknown",
            )
        with trusting(name):
            return status_of(connection, name)

    return reading(read_url(storage), read)


def _there(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"there are: {', '.join(names[:NAMED])}{more}" if names else "it is empty"


def read_study_at(url: StoreUrl, name: str, lease_s: float) -> StudyStatus:
    """One study that is known to exist."""
    return reading(url, lambda connection: status_of(connection, name, lease_s=lease_s))


def read_studies(storage: str) -> tuple[StudyStatus, ...]:
    """Every study, the latest first.

    Raises:
        StoreError: the store cannot be read.
    """

    def read(connection: sa.Connection, name: str) -> StudyStatus:
        with trusting(name):
            return status_of(connection, name)

    return reading(
        read_url(storage),
        lambda connection: tuple(read(connection, name) for name in _names(connection)),
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
    definition, versions = _recorded(row)
    validation = definition["validation"]
    fold_count = validation["folds"] if validation["scheme"] == "kfold" else 1
    trials = tally(connection, name)
    counts = _counts(connection, name, trials)
    team = workers_of(connection, name, row.now, lease_s)
    leaders = leaders_of(connection, name, row.now)
    live = sum(worker.state != "lost" for worker in team)
    left = max(0, row.target - counts.finished)
    left += trials.to_confirm(row.confirm) + trials.confirming_now
    pace = pace_now(connection, name, row.now, left=left, live=live, fold_count=fold_count)
    failures = _failures(connection, name)
    pruning = pruning_of(connection, name, trials, fold_count=fold_count, confirm=row.confirm)
    state = state_of(counts, left, row.paused, live > 0)
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
        eta_s=pace.eta_s,
        eta_range_s=pace.range_s,
        rate_per_hour=pace.per_hour,
        age_s=row.now - row.created_at,
        last_event_age_s=last_event_age(connection, name, row.now),
        pruning=pruning,
        failures=failures,
        workers=team,
        spent=spent_lately(connection, name),
        adopted=_adopted(connection, name),
        data_sha256=row.data_sha256,
        versions=versions,
        now=datetime.fromtimestamp(row.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        troubles=troubles_of(
            name,
            state=state,
            paused=row.paused,
            counts=counts,
            begun_over=trials.running if counts.finished >= row.target else 0,
            team=team,
            failures=failures,
            pruner=definition["pruner"]["type"],
            startup=definition["pruner"]["startup_trials"],
            pace=pace,
            versions=versions_of(connection, name),
        ),
    )


def _recorded(row: sa.Row[Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A study's definition and the versions it was made with.

    Raises:
        StoreError: another hand has changed them.
    """
    try:
        definition, versions = json.loads(row.definition), json.loads(row.versions)
        validation = definition["validation"]
        numbers = (row.target, validation["folds"], definition["training"]["epochs"])
        good = (
            isinstance(versions, dict)
            and all(isinstance(number, int) for number in numbers)
            and str(validation["metric"]).isidentifier()  # it is printed
            and {"type", "startup_trials"} <= set(definition["pruner"])
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        good = False
    if not good:
        raise damaged_study(row.name)
    return definition, versions


def _counts(connection: sa.Connection, name: str, trials: Tally) -> TrialCounts:
    states = trials.states
    held = connection.execute(
        sa.select(sa.func.count()).where(
            leases.c.study == name, leases.c.worker.is_not(None), sa.not_(expired(connection))
        )
    ).scalar_one()
    return TrialCounts(
        complete=trials.complete,
        pruned=trials.pruned,
        failed=states.get("FAIL", 0),
        running=min(held, states.get("RUNNING", 0)),
        waiting=max(0, states.get("RUNNING", 0) - held) + states.get("WAITING", 0),
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


def _adopted(connection: sa.Connection, name: str) -> int:
    counted = sa.select(sa.func.count()).where(attempts.c.study == name, attempts.c.token > 1)
    return int(connection.execute(counted).scalar_one())
