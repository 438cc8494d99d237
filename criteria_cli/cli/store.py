"""The store a command works on: checked once, printed without its password."""

from __future__ import annotations

from dataclasses import dataclass

from criteria_cli.errors import UsageError


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
        UsageError: not a URL we read, one with a password on the command line, or a path that no
            database takes.
    """
    from criteria_cli.hpo.url import storage_url

    url = storage_url(flag)
    try:
        address = url.sqlalchemy.render_as_string(hide_password=False)
    except UnicodeEncodeError:  # a file's name may be any bytes, an address may not
        raise UsageError(
            "the storage URL, or the folder it starts from, is not UTF-8 text",
            hint="name a file and a folder in UTF-8: --storage sqlite:////tmp/criteria.db",
            code="storage.encoding",
        ) from None
    return Store(address, url.shown)
