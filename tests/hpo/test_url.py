"""Storage URLs: what is read, what is refused, and that a password never comes out."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from criteria_cli.errors import CriteriaError, UsageError
from criteria_cli.hpo.trouble import store_error
from criteria_cli.hpo.url import read_url, storage_url

SECRET = "s3cr3tPW"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"crit:{SECRET}@host", "storage.url"),
        ("postgresql://u@h:abc/d", "storage.port"),
        ("sqlite://x.db", "storage.slashes"),
        ("sqlite://", "storage.memory"),
        ("sqlite:///:memory:", "storage.memory"),
        ("sqlite:///x.db?mode=ro", "storage.options"),
        ("mysql://u@h/d", "storage.type"),
        ("", "storage.url"),
        ("://", "storage.url"),
        (f"postgresql://u:{SECRET}@x@h/d", "storage.url"),
    ],
)
def test_what_is_no_storage_url_is_refused(text: str, code: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_url(text)
    assert refused.value.code == code
    assert SECRET not in str(refused.value) + refused.value.hint


@pytest.mark.parametrize(
    "text", [f"postgresql://u:{SECRET}@h/d", f"postgresql://u@h/d?password={SECRET}"]
)
def test_a_password_is_refused_on_the_command_line_alone(text: str) -> None:
    with pytest.raises(UsageError, match="a password on the command line is visible"):
        storage_url(text, {})
    url = storage_url(None, {"CRITERIA_STORAGE": text})
    assert SECRET not in f"{url.shown} {url.label} {url!r} {url}"
    assert SECRET in url.sqlalchemy.render_as_string(hide_password=False)


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"]
)
def test_every_spelling_of_postgresql_reaches_psycopg2(scheme: str) -> None:
    url = read_url(f"{scheme}://u@db1:5433/hpo")
    assert url.sqlalchemy.drivername == "postgresql+psycopg2"
    assert (url.label, url.shown) == ("db1:5433", "postgresql://u@db1:5433/hpo")


def test_services_and_sockets_are_addresses_too() -> None:
    assert read_url("postgresql://?service=hpo").label == "service hpo"
    assert read_url("postgresql:///hpo?host=/var/run/postgresql").label == "local socket"


def test_a_file_is_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = storage_url(None, {})
    assert (url.label, url.shown) == ("criteria.db", "sqlite:///criteria.db")
    assert url.path == tmp_path / "criteria.db"
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert url.label == "~/criteria.db"


ODD = [
    "postgresql://u:{}@", "postgresql://:{}@h", "postgresql://u:{}@h:x/d", "postgresql://u:{}@[::1/d",
    "postgresql://u:{}@h/d?x=%zz", "postgresql+asyncpg://u:{}@h/d", "pg://u:{}@h", "{}://h/d",
    "postgresql:u:{}@h/d", "postgresql//u:{}@h/d", "postgresql://u:{}@@h/d", "//u:{}@h/d",
    "u:{}@h/d", "mysql+x://u:{}@h/d", "sqlite://u:{}@h/d", "sqlite+{}:///", "oracle://{}",
    "postgresql://u:{}@h:99999999/d", "postgresql://u:{}@h:-1/d", "postgresql://u:{}\n@h/d",
    "redis://:{}@h", "http://u:{}@h/d", "postgresql://h/d?password={}&port=x", "postgresql://{}",
    "postgresql://u:{}@h/d#x", "postgresql://u{}:@h", "postgresql:///?password={}", " {} ",
    "postgresql://u:p/{}@h/d", "postgresql://u:p?{}@h/d",
]  # fmt: skip


@pytest.mark.parametrize("form", ODD)
def test_no_odd_url_gives_a_password_away(form: str) -> None:
    said: CriteriaError | None = None
    try:
        url = read_url(form.format(SECRET), on_command_line=True)
        assert url.sqlalchemy.password in (None, "")
        assert SECRET not in url.sqlalchemy.query.values()
    except CriteriaError as error:
        said = error
    assert said is None or SECRET not in f"{said.message} {said.hint}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('could not translate host name "db1" to address', "storage: host `db1` cannot be found"),
        ("connection failed: Connection refused", "storage: `db1:5432` refused the connection"),
        (
            'FATAL:  password authentication failed for user "nlp"',
            "storage: `db1` refused user `nlp` (password missing or wrong)",
        ),
        ("fe_sendauth: no password supplied", "storage: `db1` refused user `nlp` (password"),
        (
            'FATAL:  database "hpo" does not exist',
            "storage: database `hpo` does not exist on `db1`",
        ),
        ("FATAL:  sorry, too many clients already", "storage: `db1` has no free connection"),
        (
            "permission denied for schema public",
            "storage: user `nlp` may not create tables in `hpo`",
        ),
        ("cannot execute INSERT in a read-only transaction", "storage: `db1` is read-only"),
        ("connection timeout expired", "storage: `db1:5432` does not answer"),
    ],
)
def test_what_a_server_says_becomes_one_line(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    url = read_url(f"postgresql://nlp:{SECRET}@db1:5432/hpo")
    error = sa.exc.OperationalError(f"select {SECRET}", {}, Exception(f"{text} ({SECRET})"))
    found = store_error(error, url)
    assert found.message.startswith(message)
    assert SECRET not in found.message + found.hint


def test_a_password_file_that_others_can_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passfile = tmp_path / ".pgpass"
    passfile.write_text("db1:5432:hpo:nlp:x\n")
    passfile.chmod(0o644)
    monkeypatch.delenv("PGPASSFILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    error = sa.exc.OperationalError("", {}, Exception("fe_sendauth: no password supplied"))
    found = store_error(error, read_url("postgresql://nlp@db1/hpo"))
    assert found.message == (
        "storage: `~/.pgpass` is ignored because others can read it: chmod 600 ~/.pgpass"
    )
