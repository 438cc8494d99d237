"""Storage URLs: read, check, and never print a password.

What a user typed is never repeated in a message: where parsing fails, the part that holds the
password is not known.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from criteria_cli.errors import UsageError

DEFAULT = "sqlite:///criteria.db"
VARIABLE = "CRITERIA_STORAGE"
FORMS = "`sqlite:///file.db` or `postgresql://user@host/db`"

_POSTGRES = {"postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"}
_SECRET_OPTIONS = ("password", "sslpassword")


@dataclass(frozen=True)
class StoreUrl:
    """A checked address of a store.

    Attributes:
        sqlalchemy: the URL for `create_engine`; may hold a password.
    """

    sqlalchemy: sa.URL

    @property
    def is_sqlite(self) -> bool:
        return self.sqlalchemy.get_backend_name() == "sqlite"

    @property
    def path(self) -> Path:
        """The SQLite file, absolute."""
        assert self.sqlalchemy.database is not None
        return Path(self.sqlalchemy.database)

    @property
    def shown(self) -> str:
        """The URL as people may see it."""
        if self.is_sqlite:
            return f"sqlite:///{self.label}"
        hidden = {name: "***" for name in _SECRET_OPTIONS if name in self.sqlalchemy.query}
        return (
            self.sqlalchemy.set(drivername="postgresql")
            .update_query_dict(hidden)
            .render_as_string(hide_password=True)
        )

    @property
    def label(self) -> str:
        """How messages name the store: the file relative to here or to home, or host and port."""
        if not self.is_sqlite:
            return self._server()
        names = [str(self.path)]
        for start, prefix in ((Path.cwd(), ""), (Path.home(), "~/")):
            if self.path.is_relative_to(start):
                names.append(f"{prefix}{self.path.relative_to(start)}")
        return min(names, key=len)

    def _server(self) -> str:
        url = self.sqlalchemy
        if "service" in url.query and not url.host:
            return f"service {url.query['service']}"
        host = url.host or url.query.get("host") or os.environ.get("PGHOST") or "localhost"
        if not isinstance(host, str):
            host = host[0]
        if host.startswith("/"):
            return "local socket"
        return f"{host}:{url.port}" if url.port else host

    def __repr__(self) -> str:
        return f"StoreUrl({self.shown})"


def storage_url(flag: str | None, environ: Mapping[str, str] = os.environ) -> StoreUrl:
    """The store that a command uses: flag, environment, or a file in the working directory."""
    if flag is not None:
        return read_url(flag, on_command_line=True)
    return read_url(environ.get(VARIABLE) or DEFAULT)


def read_url(text: str, *, on_command_line: bool = False) -> StoreUrl:
    """Read and check a storage URL; nothing is opened.

    Raises:
        UsageError: it is not one, or holds a password where others can see it.
    """
    scheme, colon, rest = text.strip().partition("://")
    if not colon or not scheme:
        raise _unreadable()
    if scheme.split("+")[0] == "sqlite":
        return StoreUrl(_sqlite(rest))
    if scheme not in _POSTGRES:
        raise _other_type(scheme)
    url = _postgres(rest)
    if on_command_line and (url.password or any(name in url.query for name in _SECRET_OPTIONS)):
        raise UsageError(
            f"a password on the command line is visible to others, use ~/.pgpass or {VARIABLE}",
            code="storage.password",
        )
    return StoreUrl(url)


def _sqlite(rest: str) -> sa.URL:
    if rest in ("", "/", "/:memory:"):
        raise UsageError(
            "an in-memory storage cannot be shared, use `sqlite:///file.db`", code="storage.memory"
        )
    if "@" in rest.split("/", 1)[0]:
        raise _unreadable()
    if not rest.startswith("/"):
        raise UsageError(
            f"`sqlite://{rest}` needs three slashes: `sqlite:///{rest}`", code="storage.slashes"
        )
    name = rest[1:]
    if "?" in name:
        raise UsageError("an SQLite storage URL takes no options after `?`", code="storage.options")
    path = Path(name).expanduser().absolute()
    return sa.URL.create("sqlite", database=str(path))


def _postgres(rest: str) -> sa.URL:
    authority = rest.split("/", 1)[0].split("?", 1)[0]
    if authority.count("@") > 1:
        raise UsageError(
            f"could not read the storage URL, expected {FORMS}",
            hint="write `@` in a user name or password as `%40`",
            code="storage.url",
        )
    port = authority.rpartition("@")[2].rpartition("]")[2].rpartition(":")
    if port[1] and not port[2].isdecimal():
        raise UsageError(
            "could not read the storage URL: the port is not a number", code="storage.port"
        )
    try:
        url = sa.make_url(f"postgresql+psycopg2://{rest}")
    except (sa.exc.ArgumentError, ValueError):
        raise _unreadable() from None
    if not (url.host or url.database or url.query):
        raise _unreadable()
    return url


def _other_type(scheme: str) -> UsageError:
    name = scheme.split("+")[0]
    if not name.isalpha() or len(name) > 20:
        return _unreadable()
    return UsageError(
        f"storage type `{name}` is not supported, use sqlite or postgresql", code="storage.type"
    )


def _unreadable() -> UsageError:
    return UsageError(f"could not read the storage URL, expected {FORMS}", code="storage.url")
