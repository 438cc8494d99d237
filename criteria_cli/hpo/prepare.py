"""The store is made once under a lock; after that workers only check it.

Eight first starters at once would otherwise break each other's `create table`. Each step under the
lock can be repeated, and the study's own row is written last: a crash in between is completed by
the next who comes.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
import sqlalchemy as sa

from criteria_cli.errors import StoreError, UsageError
from criteria_cli.failpoints import failpoint
from criteria_cli.hpo import sqlite_file
from criteria_cli.hpo.clock import now
from criteria_cli.hpo.engine import make_engine
from criteria_cli.hpo.identity import Identity, refuse_difference
from criteria_cli.hpo.optuna_store import joined
from criteria_cli.hpo.optuna_tables import studies as optuna_studies
from criteria_cli.hpo.optuna_tables import trial_counts
from criteria_cli.hpo.runs_folder import RunsFolder
from criteria_cli.hpo.schema import check_versions, read_versions, upgrade
from criteria_cli.hpo.tables import studies, workers
from criteria_cli.hpo.timings import Timings
from criteria_cli.hpo.trouble import is_crowded, store_error
from criteria_cli.hpo.url import StoreUrl
from criteria_cli.study.file_locks import try_lock

LOCK_S = 300
"""How long to wait for another starter that makes the tables."""
CROWDED_S = 300
"""How long a start waits for a server that is full, starting up or too slow."""

_ADVISORY = 0x63726974  # "crit"


@dataclass(frozen=True)
class Budget:
    """Changes to a study's budget; None keeps the study's, or takes the definition's."""

    trials: int | None = None
    confirm: int | None = None


def prepare(
    url: StoreUrl,
    identity: Identity,
    *,
    budget: Budget = Budget(),
    folder: RunsFolder | None = None,
) -> str:
    """Make the tables and the study, or check that this worker may join it.

    Args:
        identity: the study as this worker would run it; its name is the study's.
        budget: what this command changes of it.
        folder: refused if it holds results of another study.

    Returns:
        The study's unique id, the same for all of its workers.

    Raises:
        StoreError: it cannot be reached, is damaged, or has other tables.
        UsageError: the study in the store was made with other settings, data or versions.
    """
    if url.is_sqlite:
        sqlite_file.check_folder(url)
        sqlite_file.check_health(url)
    engine = make_engine(url)
    try:
        return _patiently(engine, lambda: _prepare(url, engine, identity, budget, folder))
    except (sa.exc.SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise store_error(error, url) from error
    finally:
        engine.dispose()


def _patiently(engine: sa.Engine, work: Callable[[], str]) -> str:
    """Wait where the server is full, starting or slow; anything else is told at once."""
    began, pause = time.monotonic(), 0.5
    while True:
        try:
            return work()
        except (sa.exc.SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            if not is_crowded(error) or time.monotonic() - began > CROWDED_S:
                raise
        logging.getLogger(__name__).info("the store is full, starting up or slow, waiting")
        engine.dispose()  # who waits holds no connection
        time.sleep(pause * (0.5 + random.random()))  # noqa: S311 - so that not all come at once
        pause = min(pause * 1.5, 10.0)


def _prepare(
    url: StoreUrl,
    engine: sa.Engine,
    identity: Identity,
    budget: Budget,
    folder: RunsFolder | None,
) -> str:
    if url.is_sqlite and not url.path.exists():
        uid = None  # looking would make the file
    else:
        with engine.begin() as connection:
            versions = read_versions(connection)
            check_versions(versions)
            uid = _join(connection, identity, budget) if versions.ready else None
            if folder is not None:
                folder.refuse_other(uid)
    if uid is not None:
        return uid
    if folder is not None:
        folder.refuse_other(None)
    engine.dispose()  # who waits holds no connection
    with exclusive(url):
        _make_tables(url, engine)
        failpoint("prepare.tables")
        with engine.begin() as connection:
            return _join(connection, identity, budget) or _found(
                engine, connection, identity, budget
            )


def _join(connection: sa.Connection, identity: Identity, budget: Budget) -> str | None:
    """The uid of the study, if it exists; refused if it differs, but for one in which nothing has
    happened yet, which is made anew."""
    name = identity.spec.name
    same = sa.select(studies).where(studies.c.name == name).with_for_update()
    row = connection.execute(same).one_or_none()
    if row is None:
        return None
    try:
        refuse_difference(row, identity)
    except UsageError:
        if not is_untouched(connection, name):
            raise
        renewed = sa.update(studies).where(studies.c.name == name)
        connection.execute(renewed.values(made := _as_made(identity, budget)))
        return str(made["uid"])
    changes: dict[str, object] = {}
    if budget.trials is not None and budget.trials != row.target:
        changes["target"] = budget.trials
    if budget.confirm is not None and budget.confirm != row.confirm:
        changes["confirm"] = budget.confirm
    if row.paused is not None:  # somebody starts a worker again, having looked
        changes |= {"paused": None, "judged_from": _trials(connection, name)}
    if changes:
        connection.execute(sa.update(studies).where(studies.c.name == name).values(changes))
    return str(row.uid)


def _found(engine: sa.Engine, connection: sa.Connection, identity: Identity, budget: Budget) -> str:
    spec = identity.spec
    there = sa.select(optuna_studies.c.study_id).where(optuna_studies.c.study_name == spec.name)
    found = connection.execute(there).scalar()
    with joined(engine, connection) as storage:
        maximize = [optuna.study.StudyDirection.MAXIMIZE]
        if found is None:
            storage.create_new_study(maximize, spec.name)
        elif storage.get_study_directions(found) != maximize or _trials(connection, spec.name):
            # its trials would count, and one of them might be called the best
            raise UsageError(
                f"storage has a study `{spec.name}` of another program",
                hint="give another `--name`",
                code="study.foreign",
            )
    failpoint("prepare.study")
    made = _as_made(identity, budget)
    connection.execute(sa.insert(studies).values(name=spec.name, **made))
    return str(made["uid"])


def _as_made(identity: Identity, budget: Budget) -> dict[str, Any]:
    """The columns of a study in which nothing has happened, but for its name."""
    spec = identity.spec
    return {
        "uid": uuid.uuid4().hex,
        "definition": json.dumps(spec.to_json()),
        "identity": json.dumps(identity.settings),
        "data_sha256": identity.data_sha256,
        "pairs": identity.pairs,
        "versions": json.dumps(dict(identity.versions)),
        "precision": None,
        "target": spec.budget.trials if budget.trials is None else budget.trials,
        "confirm": spec.budget.confirm if budget.confirm is None else budget.confirm,
        "paused": None,
        "created_at": now(),
        "judged_from": 0,
    }


def is_untouched(connection: sa.Connection, name: str) -> bool:
    """Whether a study has no trial, and no worker that may be about to begin one."""
    at_work = sa.select(sa.func.count()).where(
        workers.c.study == name,
        workers.c.ended_at.is_(None),
        workers.c.seen_at > now() - 2 * Timings().lease,
    )
    return not _trials(connection, name) and not connection.execute(at_work).scalar_one()


def _trials(connection: sa.Connection, name: str) -> int:
    return sum(trial_counts(connection, name).values())


def make_tables(url: StoreUrl) -> None:
    """Make all tables that are missing, and no study."""
    engine = make_engine(url)
    try:
        with exclusive(url):
            _make_tables(url, engine)
    finally:
        engine.dispose()


def _make_tables(url: StoreUrl, engine: sa.Engine) -> None:
    """Under the lock."""
    if url.is_sqlite:
        os.close(os.open(url.path, os.O_CREAT | os.O_WRONLY, 0o600))
    with engine.begin() as connection:
        versions = read_versions(connection)
        check_versions(versions)
    if versions.ready:
        return
    address = url.sqlalchemy.render_as_string(hide_password=False)
    storage = optuna.storages.RDBStorage(
        address.replace("{", "{{").replace("}", "}}"),  # Optuna formats it
        engine_kwargs={"hide_parameters": True, "poolclass": sa.pool.NullPool},
    )
    storage.remove_session()
    storage.engine.dispose()
    failpoint("prepare.optuna")
    with engine.begin() as connection:
        upgrade(connection)


@contextmanager
def exclusive(url: StoreUrl) -> Iterator[None]:
    """One process at a time, over every host that shares the store. Ends with its holder.

    Raises:
        StoreError: another holds it for five minutes.
    """
    if url.is_sqlite:
        with _file_lock(url):
            yield
        return
    engine = sa.create_engine(url.sqlalchemy, poolclass=sa.pool.NullPool, hide_parameters=True)
    # The transaction's lock, not the session's: it survives a transaction pooler, and a frozen
    # holder loses it with its connection. Who waits holds no connection: the holder needs more.
    for _ in _attempts(0.5):
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f"set local idle_in_transaction_session_timeout = '{LOCK_S}s'"
            )
            if connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_ADVISORY))).scalar():
                yield
                return


@contextmanager
def _file_lock(url: StoreUrl) -> Iterator[None]:
    path = url.path.with_name(url.path.name + ".lock")
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError:
        raise StoreError(
            f"storage: `{url.label}` is not writable", code="store.read_only"
        ) from None
    try:
        for _ in _attempts(0.05):
            if try_lock(descriptor):
                break
        yield
    finally:
        os.close(descriptor)


def _attempts(pause_s: float) -> Iterator[None]:
    began = time.monotonic()
    while time.monotonic() - began < LOCK_S:
        yield
        time.sleep(pause_s * (0.5 + random.random()))  # noqa: S311
    raise StoreError("storage: another process is making the tables", code="store.busy")
