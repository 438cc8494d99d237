"""The database's clock as SQL, in seconds: times of day, and the clock that leases run on.

PostgreSQL has one clock for all workers. An SQLite file belongs to one host, whose time of day may
be set while a study runs; leases there run on the time since boot, and carry the boot's id.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

BOOT_FUNCTION = "criteria_boottime"


class now(FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """Seconds since 1970, UTC, by the database's clock, as of this statement."""

    type = sa.Double()
    inherit_cache = True
    name = "now"


class lease_clock(FunctionElement[float]):  # noqa: N801
    """Seconds on the clock that leases run on; comparable within one `boot_id` alone."""

    type = sa.Double()
    inherit_cache = True
    name = "lease_clock"


@compiles(now, "postgresql")
@compiles(lease_clock, "postgresql")
def _postgresql(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


@compiles(now, "sqlite")
def _sqlite_now(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(lease_clock, "sqlite")
def _sqlite_lease(*_: Any, **__: Any) -> str:
    return f"{BOOT_FUNCTION}()"


def since_boot() -> float:
    """Seconds since this host was started, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Which boot of which machine this is; the same in all containers of a host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
