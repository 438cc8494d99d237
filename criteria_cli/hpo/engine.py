"""Connections to the store: what each of them is told before its first statement."""

from __future__ import annotations

import sqlite3
import weakref
from typing import Any

import sqlalchemy as sa

from criteria_cli.failpoints import TESTING, failpoint
from criteria_cli.hpo.clock import BOOT_FUNCTION, since_boot
from criteria_cli.hpo.url import StoreUrl

BUSY_S = 60
"""How long a connection waits for another process's transaction on an SQLite file."""
STATEMENT_S = 30
"""What a PostgreSQL statement may take, waiting for locks included."""
CONNECT_S = 10

_POSTGRES_LIMITS = (
    f"set local statement_timeout = '{STATEMENT_S}s'; "
    # frees our locks when this process is frozen in the middle of a transaction
    "set local idle_in_transaction_session_timeout = '10s'"
)
_KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class _Sqlite(sqlite3.Connection):
    """A connection whose end of transaction, and own end, end its cursors too.

    SQLite keeps the file locked for reading until the last statement is read through or closed,
    rollback or not, and Python closes no statement that something still refers to. The traceback
    of an error does, and whoever keeps the error would keep all others from writing.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        cursor = super().cursor(*arguments, **options)
        self._cursors.add(cursor)
        return cursor

    def commit(self) -> None:
        self._close_cursors()
        super().commit()

    def rollback(self) -> None:
        self._close_cursors()
        super().rollback()

    def close(self) -> None:
        self._close_cursors()
        super().close()

    def _close_cursors(self) -> None:
        for cursor in tuple(self._cursors):
            cursor.close()
        self._cursors.clear()


def make_engine(url: StoreUrl, *, connections: int = 2, name: str = "criteria") -> sa.Engine:
    """An engine whose every transaction is short, bounded and, on SQLite, exclusive.

    Args:
        connections: kept open at most; a further request waits.
        name: shown by PostgreSQL as `application_name`.
    """
    if url.is_sqlite:
        engine = sa.create_engine(
            url.sqlalchemy,
            hide_parameters=True,
            pool_size=connections,
            max_overflow=0,
            connect_args={"timeout": BUSY_S, "check_same_thread": False, "factory": _Sqlite},
        )
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = sa.create_engine(
            url.sqlalchemy,
            hide_parameters=True,
            pool_pre_ping=True,
            pool_recycle=1800,
            pool_size=connections,
            max_overflow=0,
            connect_args=_postgres_arguments(url, name),
        )
        sa.event.listen(engine, "begin", _begin_postgres)
    if TESTING:
        sa.event.listen(engine, "before_cursor_execute", _count_statement)
    return engine


def reading_engine(url: StoreUrl) -> sa.Engine:
    """An engine that cannot write: for looking at a study that others run."""
    if url.is_sqlite:
        address = f"{url.path.as_uri()}?mode=ro"

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(
                address,
                uri=True,
                timeout=BUSY_S,
                isolation_level=None,
                check_same_thread=False,
                factory=_Sqlite,
            )
            connection.create_function(BOOT_FUNCTION, 0, since_boot)
            return connection

        engine = sa.create_engine(
            "sqlite://", creator=connect, hide_parameters=True, poolclass=sa.pool.NullPool
        )
        sa.event.listen(engine, "begin", _begin_plainly)
        return engine
    engine = sa.create_engine(
        url.sqlalchemy,
        hide_parameters=True,
        poolclass=sa.pool.NullPool,
        connect_args=_postgres_arguments(url, "criteria status"),
    )
    sa.event.listen(engine, "begin", _begin_reading_postgres)
    return engine


def _postgres_arguments(url: StoreUrl, name: str) -> dict[str, Any]:
    given = url.sqlalchemy.query
    wanted = {"connect_timeout": CONNECT_S, "application_name": name[:63], **_KEEPALIVES}
    return {key: value for key, value in wanted.items() if key not in given}


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # BEGIN is ours
    connection.create_function(BOOT_FUNCTION, 0, since_boot)


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("begin immediate")


def _begin_plainly(connection: sa.Connection) -> None:
    connection.exec_driver_sql("begin")


def _begin_postgres(connection: sa.Connection) -> None:
    connection.exec_driver_sql(_POSTGRES_LIMITS)


def _begin_reading_postgres(connection: sa.Connection) -> None:
    connection.exec_driver_sql(
        f"set transaction isolation level repeatable read, read only; {_POSTGRES_LIMITS}"
    )


def _count_statement(*_: object) -> None:
    failpoint("sql")
