"""The store a command works on: checked once, printed without its password."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, repr=False)
class Store:
    """A checked storage URL."""

    address: str
    """May hold a password; never printed."""
    shown: str
    """As people may see it."""


def store(flag: str | None) -> Store:
    """Flag, environment, or a file in the working directory.

    Raises:
        UsageError: not a URL we read, or one with a password on the command line.
    """
    from criteria_cli.hpo.url import storage_url

    url = storage_url(flag)
    return Store(url.sqlalchemy.render_as_string(hide_password=False), url.shown)
