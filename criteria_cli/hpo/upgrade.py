"""Bringing the tables of an older criteria up to date: said first, then done.

Optuna's own tables are never touched; its own command upgrades those.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from criteria_cli.bundled import bundled
from criteria_cli.errors import StoreError, UsageError
from criteria_cli.hpo import schema, sqlite_file
from criteria_cli.hpo.clock import now
from criteria_cli.hpo.engine import make_engine
from criteria_cli.hpo.prepare import exclusive
from criteria_cli.hpo.tables import workers
from criteria_cli.hpo.timings import Timings
from criteria_cli.hpo.trouble import store_error
from criteria_cli.hpo.url import read_url


@dataclass(frozen=True)
class UpgradePlan:
    """What `upgrade` would do.

    Attributes:
        current: our revision in the store.
        steps: (revision, what it does) to come, the oldest first; empty if there is nothing to do.
        live_workers: names of workers that still run.
    """

    store: str
    current: str
    steps: tuple[tuple[str, str], ...]
    live_workers: tuple[str, ...]


def plan(storage: str) -> UpgradePlan:
    """What an upgrade of a store would do; changes nothing.

    Raises:
        StoreError: it cannot be read, holds no tables of ours, or those of a newer criteria.
    """
    url = read_url(storage)
    if url.is_sqlite:
        if not url.path.exists():
            raise StoreError(f"storage: `{url.label}` does not exist", code="store.missing")
        sqlite_file.check_health(url)
    engine = make_engine(url)
    try:
        with engine.begin() as connection:
            found = schema.read_versions(connection)
            if found.ours is None:
                raise StoreError(
                    f"storage: `{url.label}` holds no studies of criteria", code="store.empty"
                )
            if found.ours not in schema.REVISIONS:
                schema.check_versions(found)
            live = connection.execute(
                sa.select(workers.c.name).where(
                    workers.c.ended_at.is_(None), workers.c.seen_at > now() - Timings().lease
                )
            ).scalars()
            return UpgradePlan(
                url.shown,
                found.ours,
                tuple((revision, _subject(revision)) for revision in schema.pending(found)),
                tuple(live),
            )
    except sa.exc.SQLAlchemyError as error:
        raise store_error(error, url) from error
    finally:
        engine.dispose()


def upgrade(storage: str) -> UpgradePlan:
    """Bring our tables up to date; what was done.

    Raises:
        UsageError: workers still run.
        StoreError: the store cannot be used.
    """
    planned = plan(storage)
    if not planned.steps:
        return planned
    if planned.live_workers:
        raise UsageError(
            f"{len(planned.live_workers)} workers still run: {', '.join(planned.live_workers)}",
            hint="stop them first; the same commands go on afterwards",
            code="storage.in_use",
        )
    url = read_url(storage)
    engine = make_engine(url)
    try:
        with exclusive(url), engine.begin() as connection:
            schema.upgrade(connection)
    except sa.exc.SQLAlchemyError as error:
        raise store_error(error, url) from error
    finally:
        engine.dispose()
    return planned


def _subject(revision: str) -> str:
    """The first line of a migration's own words."""
    (path,) = Path(bundled("alembic"), "versions").glob(f"{revision}_*.py")
    return path.read_text(encoding="utf-8").splitlines()[0].strip('"').rstrip(".")
