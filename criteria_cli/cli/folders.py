"""What a refused command leaves behind: nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from criteria_cli.errors import MachineError, StoreError, UsageError


@contextmanager
def nothing_left_if_refused(folder: Path) -> Iterator[None]:
    """Take away the empty folders that a command made before it found that it cannot start.

    Where the folder was there already, nothing is taken away: empty folders in it may be those
    that a living worker is about to write in.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except (UsageError, MachineError, StoreError):
        if folder in made:
            for path in [*_inside(folder), *made]:
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
        raise


def _inside(folder: Path) -> list[Path]:
    """Folders below, the deepest first."""
    found = [path for path in folder.rglob("*") if path.is_dir()] if folder.is_dir() else []
    return sorted(found, key=lambda path: len(path.parts), reverse=True)
