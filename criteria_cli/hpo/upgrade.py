"""Bringing an older store's tables up to this version of criteria, when a person asks for it."""

from __future__ import annotations

import sqlalchemy as sa

from criteria_cli.errors import StoreError
from criteria_cli.hpo import sqlite_file
from criteria_cli.hpo.engine import make_engine, reading_engine
from criteria_cli.hpo.prepare import exclusive
from criteria_cli.hpo.schema import REVISIONS, Versions, check_versions, pending, read_versions
from criteria_cli.hpo.schema import upgrade as upgrade_tables
from criteria_cli.hpo.trouble import store_error
from criteria_cli.hpo.url import StoreUrl, read_url


def revisions_to_come(storage: str) -> tuple[str, ...]:
    """Our revisions that a store does not have yet, the oldest first; nothing is written.

    Raises:
        StoreError: it holds no studies, cannot be read, or is newer than this criteria.
    """
    url = read_url(storage)
    _check_file(url)
    engine = reading_engine(url)
    try:
        with engine.begin() as connection:
            found = read_versions(connection)
    except sa.exc.SQLAlchemyError as error:
        raise store_error(error, url) from None
    finally:
        engine.dispose()
    _refuse(found, url)
    return pending(found)


def upgrade(storage: str) -> tuple[str, ...]:
    """Bring our tables to the newest revision, alone, in one transaction; Optuna's are not touched.

    Returns the revisions that were applied. Workers of the store must be stopped.

    Raises:
        StoreError: as `revisions_to_come`.
    """
    coming = revisions_to_come(storage)
    url = read_url(storage)
    engine = make_engine(url)
    try:
        with exclusive(url), engine.begin() as connection:
            upgrade_tables(connection)
    except sa.exc.SQLAlchemyError as error:
        raise store_error(error, url) from None
    finally:
        engine.dispose()
    return coming


def _check_file(url: StoreUrl) -> None:
    if not url.is_sqlite:
        return
    if not url.path.exists():
        raise StoreError(f"storage: `{url.label}` does not exist", code="store.missing")
    sqlite_file.check_health(url)


def _refuse(found: Versions, url: StoreUrl) -> None:
    if found.ours is None:
        raise StoreError(f"storage: `{url.label}` holds no studies of criteria", code="store.empty")
    if found.ours not in REVISIONS:
        check_versions(found)
