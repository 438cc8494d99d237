"""What a database error means: whether waiting can help, and one line for a person.

Errors of drivers hold SQL, parameters and sometimes the whole connection string, so none of their
text is passed on.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from criteria_cli.errors import StoreError
from criteria_cli.failpoints import Injected
from criteria_cli.hpo.url import StoreUrl

_PASSING_STATES = (
    "08",  # connection exceptions
    "53",  # out of memory, disk or connections
    "57P",  # shut down, crashed, starting up
    "57014",  # statement timeout
    "40",  # serialization failure, deadlock
    "55P03",  # lock timeout
    "25P03",  # idle in transaction timeout
    "25006",  # read-only: a standby after a failover
)
_SLOW_STATES = ("53300", "57P03", "57014", "40", "55P03", "25P03")
_CROWDED = ("too many c", "remaining connection slots", "starting up", "recovery mode")
_BROKEN = (  # no connection in time, or a transaction that went with its connection
    sa.exc.TimeoutError,
    sa.exc.PendingRollbackError,
    sa.exc.ResourceClosedError,
)
_CLOSED = "on closed transaction"
"""SQLAlchemy's words for a transaction that an error has ended before: after some, Optuna tries
again within it and loses the first."""
_PASSING_SQLITE = ("locked", "busy", "full", "disk i/o", "unable to open", "readonly")


def database_error(error: BaseException) -> BaseException | None:
    """The driver's own error behind what SQLAlchemy or Optuna raised, if it is about the store."""
    for seen in _chain(error):
        if isinstance(seen, sa.exc.DBAPIError) and seen.orig is not None:
            return seen.orig
    for seen in _chain(error):
        if isinstance(seen, (sqlite3.Error, *_BROKEN)) or _CLOSED in str(seen):
            return seen
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those before it. Optuna goes on after a first one, in `finally`, with the
    transaction that it broke."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def is_passing(error: BaseException) -> bool:
    """Whether the same statement may succeed later: the store is away, busy or full."""
    if any(isinstance(seen, Injected) for seen in _chain(error)):
        return True
    found = database_error(error)
    if found is None:
        return False
    if isinstance(found, sa.exc.SQLAlchemyError):
        return True
    if isinstance(found, sqlite3.Error):
        text = str(found).lower()
        return isinstance(found, sqlite3.OperationalError) and any(
            sign in text for sign in _PASSING_SQLITE
        )
    state = getattr(found, "pgcode", None)
    if state is None:
        return True  # the connection could not be made, or broke
    return str(state).startswith(_PASSING_STATES)


def is_crowded(error: BaseException) -> bool:
    """Whether a server is there and has too much to do: no free connection, starting up, a
    statement that took too long, or a transaction of ours that stood still for too long."""
    found = database_error(error)
    state = str(getattr(found, "pgcode", None) or "")
    return any(sign in str(found).lower() for sign in _CROWDED) or state.startswith(_SLOW_STATES)


def cause_of(error: BaseException) -> str:
    """A few words for a log line."""
    found = database_error(error)
    text = str(found).lower() if found is not None else ""
    for sign, words in _CAUSES:
        if sign in text:
            return words
    state = getattr(found, "pgcode", None)
    return f"error {state}" if state else "no connection"


_CAUSES = (
    ("connection refused", "connection refused"),
    ("could not translate host name", "host not found"),
    ("too many clients", "too many clients"),
    ("remaining connection slots", "too many clients"),
    ("starting up", "starting up"),
    ("shutting down", "shutting down"),
    ("administrator command", "connection ended by the server"),
    ("terminating connection", "connection ended by the server"),
    ("closed the connection", "connection lost"),
    ("read-only", "read-only"),
    ("readonly", "read-only"),
    ("deadlock", "deadlock"),
    ("timeout", "no answer"),
    ("is full", "disk full"),
    ("locked", "locked"),
    ("i/o", "disk error"),
    ("no such file", "no server"),
)


def store_error(error: BaseException, url: StoreUrl) -> StoreError:
    """One line for a person about why the store cannot be used."""
    found = database_error(error) or error
    text = str(found)
    made = _sqlite_error(text, url) if url.is_sqlite else _postgres_error(text, found, url)
    return made or StoreError(
        f"storage: `{url.label}` cannot be used: {cause_of(error)}", code="store.error"
    )


_OURS = (sa.exc.IntegrityError, sa.exc.DataError)
"""What a database says of values that we should not have sent."""


def as_told(error: Exception, url: StoreUrl) -> StoreError | None:
    """An error that trying again does not cure, as a person is told it; None if it is ours."""
    if isinstance(error, sa.exc.DBAPIError) and not isinstance(error, _OURS):
        return store_error(error, url)
    return None


def _sqlite_error(text: str, url: StoreUrl) -> StoreError | None:
    lowered, name = text.lower(), url.label
    if "not a database" in lowered:
        return StoreError(f"storage: `{name}` is not an SQLite database", code="store.foreign")
    if "malformed" in lowered or "no such table" in lowered or "no such column" in lowered:
        return damaged(url)
    if "full" in lowered:
        return StoreError(f"storage: no space left for `{name}`", code="store.full")
    if "readonly" in lowered or "unable to open" in lowered:
        return StoreError(f"storage: `{name}` is not writable", code="store.read_only")
    if "locked" in lowered:
        return StoreError(
            f"storage: `{name}` has been locked by another process for a minute",
            code="store.locked",
        )
    return None


_DAMAGED = "store.damaged"


def is_damage(error: BaseException) -> bool:
    """Whether an error says that what is stored cannot be read."""
    return isinstance(error, StoreError) and error.code == _DAMAGED


def damaged(url: StoreUrl) -> StoreError:
    """The error for a file that SQLite cannot read through."""
    return StoreError(
        f"storage: `{url.label}` is damaged",
        hint="put a backup in its place; finished trials also lie under the runs folder",
        code=_DAMAGED,
    )


def damaged_study(name: str) -> StoreError:
    """The error for a study whose rows another hand has changed."""
    return StoreError(
        f"storage: what is written of study `{name}` is damaged, or of a newer criteria",
        hint="put a backup in its place; finished trials also lie under the runs folder",
        code=_DAMAGED,
    )


_UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip
"""What Python makes of text that is not JSON, or of a value of another type than ours, and Optuna
of a value that is missing."""


@contextmanager
def trusting(name: str) -> Iterator[None]:
    """Read rows of a study as if they were ours. For what reads and does nothing else: elsewhere
    an error of ours is told as one.

    Raises:
        StoreError: they are not as this criteria writes them.
    """
    try:
        yield
    except _UNREADABLE as error:
        raise damaged_study(name) from error


def _postgres_error(text: str, error: BaseException, url: StoreUrl) -> StoreError | None:
    lowered, host = text.lower(), url.label
    bare = host.rpartition(":")[0] or host
    user = url.sqlalchemy.username or os.environ.get("PGUSER") or "you"
    database = url.sqlalchemy.database or os.environ.get("PGDATABASE") or user
    state = str(getattr(error, "pgcode", None) or "")

    def say(message: str, code: str, hint: str = "") -> StoreError:
        return StoreError(f"storage: {message}", hint=hint, code=f"store.{code}")

    if "could not translate host name" in lowered:
        return say(f"host `{bare}` cannot be found", "host")
    if "connection refused" in lowered or "no such file or directory" in lowered:
        return say(f"`{host}` refused the connection", "refused")
    if re.search(r"definition of service .* not found|service file .* not found", lowered):
        return say(f"service `{url.sqlalchemy.query.get('service')}` is not known", "service")
    if "password" in lowered and ("authentication failed" in lowered or "no password" in lowered):
        shared = _shared_passfile()
        if shared:
            return say(
                f"`{shared}` is ignored because others can read it: chmod 600 {shared}", "passfile"
            )
        return say(f"`{bare}` refused user `{user}` (password missing or wrong)", "password")
    if "certificate verify failed" in lowered:
        return say(
            f"the certificate of `{bare}` is not from an authority that is trusted here",
            "certificate",
            "`sslrootcert` names the authority's file",
        )
    if "does not match host name" in lowered:
        return say(f"the certificate of `{bare}` is for another host name", "certificate")
    if "no pg_hba.conf entry" in lowered:
        return say(f"`{bare}` does not let user `{user}` in from here", "refused")
    if re.search(r'database ".*" does not exist', lowered):
        return say(f"database `{database}` does not exist on `{bare}`", "database")
    if re.search(r'role ".*" does not exist', lowered):
        return say(f"`{bare}` knows no user `{user}`", "user")
    if "too many c" in lowered or "remaining connection slots" in lowered:
        return say(f"`{bare}` has no free connection", "full", "fewer workers, or a pooler")
    if state in ("42P01", "42703"):  # no such table or column
        return damaged(url)
    if state == "25006" or "read-only" in lowered:
        return say(f"`{bare}` is read-only", "read_only")
    if state == "42501" or "permission denied" in lowered:
        return say(f"user `{user}` may not create tables in `{database}`", "permission")
    if "timeout" in lowered or "timed out" in lowered:
        return say(f"`{host}` does not answer", "timeout")
    return None


def _shared_passfile() -> str | None:
    """The password file, if libpq leaves it out because others can read it."""
    given = os.environ.get("PGPASSFILE")
    path = Path(given) if given else Path.home() / ".pgpass"
    try:
        shared = path.stat().st_mode & 0o077
    except OSError:
        return None
    if not shared:
        return None
    return path.name if given else "~/.pgpass"
