"""docs/postgresql.md does what it says: roles, encryption, service and password files."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from desk import desks, identity_of, spec_of
from postgres_server import PostgresServer

from criteria_cli.errors import StoreError
from criteria_cli.hpo.engine import make_engine
from criteria_cli.hpo.prepare import make_tables, prepare
from criteria_cli.hpo.status import read_study
from criteria_cli.hpo.url import read_url, storage_url

PAGE = Path(__file__).resolve().parents[2] / "docs" / "postgresql.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
ADDRESS = "postgresql:///?service=criteria"
PASSWORD = "s3cr3tPW"


def blocks(kind: str, name: str = "") -> list[str]:
    return [content for k, n, content in BLOCKS if (k, n) == (kind, name)]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page's openssl commands make for this machine."""
    folder = tmp_path_factory.mktemp("certificates")
    (commands,) = blocks("sh")
    subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        env={**os.environ, "HOST": "localhost"},
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def server(certificates: Path) -> Iterator[PostgresServer]:
    """A server that is set up as the page says, with its roles."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = PostgresServer(settings=["listen_addresses=127.0.0.1"], port=port)
    owner = server.data.stat()
    for name in ("server.crt", "server.key"):
        shutil.copy(certificates / name, server.data / name)
        os.chown(server.data / name, owner.st_uid, owner.st_gid)
        (server.data / name).chmod(0o600)
    with (server.data / "postgresql.conf").open("a") as file:
        file.write(blocks("ini", "postgresql.conf")[0])
    (server.data / "pg_hba.conf").write_text(
        "local all all trust\n" + blocks("text", "pg_hba.conf")[0]
    )
    server.start()
    try:
        for kind in ("postgres", "criteria"):
            for block in blocks("sql", kind):
                for statement in filter(str.strip, block.split(";")):
                    server.execute(statement, kind)
        for role in ("criteria", "criteria_worker", "criteria_reader"):
            server.execute(f"alter role {role} password '{PASSWORD}'")
        make_tables(read_url(as_role(server, "criteria")))
        yield server
    finally:
        server.stop()


def as_role(server: PostgresServer, role: str) -> str:
    return server.url("criteria").replace("postgres@", f"{role}@") + f"&port={server.port}"


@pytest.fixture
def service(
    server: PostgresServer, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The page's service and password file, for this server; the service file."""
    (text,) = blocks("ini", "pg_service.conf")
    text = text.replace("db.example.org", "localhost").replace("5432", str(server.port))
    file = tmp_path / "pg_service.conf"
    file.write_text(text.replace("/etc/ssl/criteria-ca.crt", str(certificates / "ca.crt")))
    (line,) = blocks("text", "pgpass")
    line = line.replace("db.example.org", "localhost").replace("5432", str(server.port))
    passwords = tmp_path / "pgpass"
    passwords.write_text(line.replace("the password", PASSWORD))
    passwords.chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    return file


def test_a_worker_comes_in_by_the_service_file_encrypted(service: Path) -> None:
    assert f"export CRITERIA_STORAGE='{ADDRESS}'\n" in blocks("text")
    url = storage_url(None, {"CRITERIA_STORAGE": ADDRESS})
    assert url.label == "service criteria"
    with desks(ADDRESS, 1, spec=spec_of(name="encrypted")) as (desk,):
        desk.whole_trial()
        statement = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
        assert desk.rows(statement)[0][0] is True


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("sslmode=verify-full", "sslmode=disable", "does not let user"),
        ("host=localhost", "host=127.0.0.1", "is for another host name"),
        ("ca.crt", "server.crt", "not from an authority that is trusted here"),
        ("user=criteria", "user=criteria\npassword=n0tth1s", "password missing or wrong"),
    ],
)
def test_everybody_else_is_refused_in_one_line(
    service: Path, old: str, new: str, said: str
) -> None:
    service.write_text(service.read_text().replace(old, new))
    with pytest.raises(StoreError, match=said) as refused, desks(ADDRESS, 1):
        pass
    for secret in (PASSWORD, "n0tth1s", "pg_service", "/tmp"):
        assert secret not in refused.value.message + refused.value.hint


def test_a_password_file_that_others_can_read_is_named(
    service: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.with_name("pgpass").chmod(0o644)
    with pytest.raises(StoreError, match="pgpass` is ignored because others can read it"):
        prepare(read_url(ADDRESS), identity_of(spec_of()))


def test_a_role_that_only_changes_rows_can_run_a_study(server: PostgresServer) -> None:
    with desks(as_role(server, "criteria_worker"), 1, spec=spec_of(name="rows")) as (desk,):
        desk.whole_trial()
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            desk.rows("create table intruder (n int)")


def test_a_reader_reads_and_changes_nothing(server: PostgresServer) -> None:
    with desks(as_role(server, "criteria"), 1, spec=spec_of(name="read")) as (desk,):
        desk.whole_trial()
    reader = as_role(server, "criteria_reader")
    assert read_study(reader, "read").trials.complete == 1
    engine = make_engine(read_url(reader))
    try:
        with (
            pytest.raises(sa.exc.ProgrammingError, match="permission denied"),
            engine.begin() as connection,
        ):
            connection.execute(sa.text("update criteria_studies set target = 1"))
    finally:
        engine.dispose()


def test_another_database_is_closed_to_them(server: PostgresServer) -> None:
    server.execute("create role stranger login")
    with pytest.raises(StoreError, match="storage: "), desks(as_role(server, "stranger"), 1):
        pass
