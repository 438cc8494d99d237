"""What tests of several rooms share."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres_server import PostgresServer, binaries

from criteria_cli.hpo.prepare import make_tables
from criteria_cli.hpo.url import read_url

# a shell starts what runs in its background with Ctrl-C ignored, and our children would inherit it
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server of this session; it ends with pytest, even by kill -9."""
    assert binaries() is not None, "no PostgreSQL server: apt-get install postgresql"
    server = PostgresServer().start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with all tables and no study."""
    path = tmp_path_factory.mktemp("template") / "store.db"
    make_tables(read_url(f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """A database with all tables and no study."""
    name = postgres.new_database()
    make_tables(read_url(postgres.url(name)))
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store with all tables and no study, once on each database."""
    if request.param == "sqlite":
        path = tmp_path / "store.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(server.new_database(request.getfixturevalue("postgres_template")))


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that nobody has used, once on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(server.new_database())


@pytest.fixture
def guarded(postgres: PostgresServer) -> Callable[[str], str]:
    """Makes an empty database whose user needs this password, and gives its URL with it in it."""

    def make(password: str) -> str:
        name = postgres.new_database()
        rules = postgres._home / "data" / "pg_hba.conf"
        text = rules.read_text()
        with postgres.connect() as connection, connection.cursor() as cursor:
            cursor.execute("select 1 from pg_roles where rolname = 'guarded'")
            verb = "alter" if cursor.fetchone() else "create"
            cursor.execute(f"{verb} role guarded login password '{password}'")
            cursor.execute(f"alter database {name} owner to guarded")
            if "guarded" not in text:
                rules.write_text(f"local all guarded scram-sha-256\n{text}")
                cursor.execute("select pg_reload_conf()")
        return postgres.url(name).replace("postgres@", f"guarded:{password}@")

    return make
