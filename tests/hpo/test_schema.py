"""Migrations make exactly the tables that the code uses, on both databases, beside Optuna's."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from desk import Desk

from criteria_cli.bundled import bundled
from criteria_cli.errors import StoreError, UsageError
from criteria_cli.hpo import schema, upgrade
from criteria_cli.hpo.engine import make_engine
from criteria_cli.hpo.tables import VERSION_TABLE, metadata
from criteria_cli.hpo.url import read_url


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(bundled("alembic")))
    return ScriptDirectory.from_config(config)


def test_the_known_revisions_are_those_on_disk() -> None:
    found = [script.revision for script in _scripts().walk_revisions()]
    assert tuple(reversed(found)) == schema.REVISIONS
    assert schema.REVISIONS[-1] == schema.HEAD == _scripts().get_current_head()


def test_the_folder_is_no_package() -> None:
    """With an `__init__.py` it would stand in the place of the library."""
    assert not (bundled("alembic") / "__init__.py").exists()


def test_optunas_schema_is_the_one_we_check_for(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'o.db'}")
    assert storage.get_head_version() == schema.OPTUNA_HEAD
    storage.engine.dispose()


def _differences(connection: sa.Connection) -> list[object]:
    context = MigrationContext.configure(
        connection,
        opts={
            "version_table": VERSION_TABLE,
            "compare_type": True,
            "include_name": lambda name, kind, _: kind != "table" or name in metadata.tables,
        },
    )
    return list(compare_metadata(context, metadata))


@pytest.mark.parametrize("start", [None, *schema.REVISIONS])
def test_every_earlier_revision_comes_up_to_the_tables_of_the_code(
    empty_storage: str, start: str | None
) -> None:
    url = read_url(empty_storage)
    address = url.sqlalchemy.render_as_string(hide_password=False)
    optuna.storages.RDBStorage(address).engine.dispose()
    engine = make_engine(url)
    if start is not None:
        with engine.begin() as connection:
            schema.upgrade(connection, start)
    with engine.begin() as connection:
        schema.upgrade(connection)
        assert _differences(connection) == []
        assert schema.read_versions(connection).ready
    engine.dispose()


def test_the_upgrade_says_what_it_does_and_waits_for_workers(storage: str) -> None:
    desk = Desk(storage)
    planned = upgrade.plan(storage)
    assert planned.current == schema.HEAD
    assert planned.steps == ()
    assert planned.live_workers == (desk.name,)
    assert upgrade.upgrade(storage).steps == ()
    desk.close()


def test_an_older_store_is_refused_with_the_command_that_helps(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "HEAD", "9999")
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9999"))
    with pytest.raises(StoreError) as refused:
        Desk(storage)
    assert refused.value.code == "store.old_schema"
    assert "criteria storage upgrade" in refused.value.hint
    monkeypatch.undo()
    Desk(storage).close()
    monkeypatch.setattr(upgrade, "_subject", lambda revision: "one more column")
    monkeypatch.setattr(schema, "HEAD", "9999")
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9999"))
    assert upgrade.plan(storage).steps == (("9999", "one more column"),)
    with pytest.raises(UsageError, match="1 workers still run: w"):
        upgrade.upgrade(storage)
