"""Places for studies that real processes run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from processes import Place


@pytest.fixture
def place(tmp_path: Path, storage: str) -> Iterator[Place]:
    """A place on each database in turn."""
    made = Place(tmp_path, storage)
    yield made
    made.clear()


@pytest.fixture
def sqlite_place(tmp_path: Path, sqlite_template: Path) -> Iterator[Place]:
    shutil.copy(sqlite_template, tmp_path / "store.db")
    made = Place(tmp_path, f"sqlite:///{tmp_path / 'store.db'}")
    yield made
    made.clear()


@pytest.fixture
def postgres_place(
    tmp_path: Path, postgres: PostgresServer, postgres_template: str
) -> Iterator[Place]:
    made = Place(tmp_path, postgres.url(postgres.new_database(postgres_template)))
    yield made
    made.clear()


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
