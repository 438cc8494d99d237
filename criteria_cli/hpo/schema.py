"""Which tables a store has: Optuna's, checked and left alone, and ours under Alembic."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import version

import sqlalchemy as sa

from criteria_cli.bundled import bundled
from criteria_cli.errors import StoreError
from criteria_cli.hpo.tables import VERSION_TABLE, metadata

HEAD = "0002"
"""Our newest revision; a test holds it to `alembic/versions`."""
OPTUNA_HEAD = "v3.2.0.a"
"""The schema of Optuna 5; a test holds it to the library."""
REVISIONS = ("0001", "0002")
"""All of ours, the oldest first."""


@dataclass(frozen=True)
class Versions:
    """What the store holds; None where the tables are not there."""

    ours: str | None
    optuna: str | None
    optuna_library: str | None
    """The version of Optuna that made its tables."""
    missing: tuple[str, ...] = ()
    """Tables of ours that the newest revision has and the store has not."""

    @property
    def ready(self) -> bool:
        return self.ours == HEAD and self.optuna == OPTUNA_HEAD


def read_versions(connection: sa.Connection) -> Versions:
    """The revisions in a store."""
    there = set(sa.inspect(connection).get_table_names())

    def one(statement: str, table: str) -> str | None:
        if table not in there:
            return None
        found = connection.execute(sa.text(statement)).scalar()
        return None if found is None else str(found)

    ours = one(f"select version_num from {VERSION_TABLE}", VERSION_TABLE)  # noqa: S608
    return Versions(
        ours=ours,
        optuna=one("select version_num from alembic_version", "alembic_version"),
        optuna_library=one("select library_version from version_info", "version_info"),
        missing=tuple(sorted(set(metadata.tables) - there)) if ours == HEAD else (),
    )


def check_versions(found: Versions) -> None:
    """Raise if the store's tables are not those of this criteria and this Optuna.

    Tables that are not there yet are no trouble.

    Raises:
        StoreError: naming both versions and the command that helps.
    """
    if found.optuna is not None and found.optuna != OPTUNA_HEAD:
        raise _optuna_differs(found)
    if found.missing:
        raise StoreError(
            f"storage: table `{found.missing[0]}` is missing",
            hint="put a backup in its place; finished trials also lie under the runs folder",
            code="store.damaged",
        )
    if found.ours is None or found.ours == HEAD:
        return
    if found.ours in REVISIONS:
        raise StoreError(
            f"storage: tables are at revision {found.ours}, this criteria needs {HEAD}",
            hint="stop all workers, make a backup, then run `criteria storage upgrade`",
            code="store.old_schema",
        )
    raise StoreError(
        f"storage: tables are at revision {found.ours}, this criteria knows {HEAD}",
        hint="upgrade criteria",
        code="store.new_schema",
    )


def _optuna_differs(found: Versions) -> StoreError:
    here, made = version("optuna"), found.optuna_library or "unknown"
    numbers = re.match(r"v(\d+)\.(\d+)\.", found.optuna or "")
    if numbers is None:
        return StoreError(
            "storage: the table `alembic_version` belongs to another program",
            hint="give criteria a database of its own",
            code="store.foreign_schema",
        )
    known = re.match(r"v(\d+)\.(\d+)\.", OPTUNA_HEAD)
    assert known is not None
    if tuple(map(int, numbers.groups())) > tuple(map(int, known.groups())):
        return StoreError(
            f"storage: tables were made by optuna {made}, here is {here}: upgrade optuna",
            code="store.new_optuna",
        )
    return StoreError(
        f"storage: tables are from an older optuna ({made}), here is {here}",
        hint="make a backup, then run `optuna storage upgrade --storage URL`",
        code="store.old_optuna",
    )


def pending(found: Versions) -> tuple[str, ...]:
    """Our revisions that the store does not have yet, the oldest first."""
    if found.ours is None:
        return REVISIONS
    return REVISIONS[REVISIONS.index(found.ours) + 1 :] if found.ours in REVISIONS else ()


def upgrade(connection: sa.Connection, revision: str = "head") -> None:
    """Bring our tables to a revision, within the connection's transaction."""
    from alembic.config import Config

    from alembic import command

    config = Config()
    config.set_main_option("script_location", str(bundled("alembic")).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
