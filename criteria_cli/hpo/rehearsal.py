"""What a search would find if it started now. Nothing is made, written or locked."""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa

from criteria_cli.errors import MachineError, UsageError
from criteria_cli.hpo import sqlite_file
from criteria_cli.hpo.confirmations import tally
from criteria_cli.hpo.engine import reading_engine
from criteria_cli.hpo.identity import Identity, refuse_difference, versions_here
from criteria_cli.hpo.prepare import is_untouched
from criteria_cli.hpo.runs_folder import LEAST_FREE_BYTES
from criteria_cli.hpo.schema import check_versions, read_versions
from criteria_cli.hpo.tables import studies
from criteria_cli.hpo.trouble import store_error
from criteria_cli.hpo.url import StoreUrl, read_url
from criteria_cli.study.spec import StudySpec


def rehearse(storage: str, spec: StudySpec, data_sha256: str, pairs: int, folder: Path) -> str:
    """Check store, study and folder, and say what is there.

    Args:
        folder: of the study's results.

    Raises:
        UsageError: the study in the store was made with other settings, data or versions.
        StoreError: the store cannot be used.
        MachineError: results cannot be written.
    """
    _check_folder(folder)
    url = read_url(storage)
    if url.is_sqlite:
        sqlite_file.check_folder(url)
        sqlite_file.check_health(url)
        if not url.path.exists():
            return "no store yet: a search would make it"
    return _look(url, Identity(spec, data_sha256, pairs, versions_here()))


def _look(url: StoreUrl, identity: Identity) -> str:
    name = identity.spec.name
    engine = reading_engine(url)
    try:
        with engine.begin() as connection:
            versions = read_versions(connection)
            check_versions(versions)
            if not versions.ready:
                return "no tables yet: a search would make them"
            row = connection.execute(sa.select(studies).where(studies.c.name == name)).one_or_none()
            if row is None:
                return f"no study `{name}` yet: a search would make it"
            finished = tally(connection, name).finished
            untouched = is_untouched(connection, name)
    except sa.exc.SQLAlchemyError as error:
        raise store_error(error, url) from None
    finally:
        engine.dispose()
    try:
        refuse_difference(row, identity)
    except UsageError:
        if not untouched:
            raise
        return f"study `{name}` has no trial yet: a search would make it anew"
    return f"study `{name}` is there, {finished} of {row.target} trials done: a search would join"


def _check_folder(folder: Path) -> None:
    """The nearest folder that exists can be written and has room."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    shown = f"{folder.parent.name}/{folder.name}"
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise MachineError(f"cannot write to `{shown}`: permission denied", code="machine.runs")
    free = os.statvfs(there)
    if free.f_bavail * free.f_frsize < LEAST_FREE_BYTES:
        raise MachineError(
            f"`{shown}` has {free.f_bavail * free.f_frsize // 2**20} MiB free, a study needs at "
            f"least {LEAST_FREE_BYTES // 2**20}",
            code="machine.disk",
        )
