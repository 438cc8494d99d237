"""Places for studies that real processes run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from processes import Place


@pytest.fixture
def place(tmp_path: Path, storage: str) -> Place:
    """A place on each database in turn."""
    return Place(tmp_path, storage)


@pytest.fixture
def sqlite_place(tmp_path: Path, sqlite_template: Path) -> Place:
    shutil.copy(sqlite_template, tmp_path / "store.db")
    return Place(tmp_path, f"sqlite:///{tmp_path / 'store.db'}")


@pytest.fixture
def postgres_place(tmp_path: Path, postgres: PostgresServer, postgres_template: str) -> Place:
    return Place(tmp_path, postgres.url(postgres.new_database(postgres_template)))


@pytest.fixture
def own_server() -> Iterator[Callable[..., PostgresServer]]:
    """Servers that a test may break."""
    made: list[PostgresServer] = []

    def make(connections: int = 100) -> PostgresServer:
        made.append(PostgresServer(connections).start())
        return made[-1]

    yield make
    for server in made:
        server.stop()
