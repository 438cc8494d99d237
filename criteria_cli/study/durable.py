"""JSON files that are whole or not there, readable by their owner alone."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from criteria_cli.failpoints import failpoint

PARTIAL = ".partial"


def private_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, that only the owner can enter."""
    for folder in reversed([path, *path.parents]):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)


def write_json(path: Path, value: Mapping[str, Any], *, through: Path | None = None) -> None:
    """Put a JSON object in place of `path`: after a crash the old file is there, or the new one.

    Args:
        through: the folder to write it in before it is renamed; by default the one it comes to.
    """
    # others may write it too, and in containers every one of them is process 1
    partial = (through or path.parent) / f"{path.name}.{secrets.token_hex(4)}{PARTIAL}"
    content = json.dumps(value, allow_nan=False).encode()
    failpoint("file.write")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        failpoint("file.sync")
        os.fsync(file.fileno())
    failpoint("file.rename")
    put_in_place(partial, path)


def put_in_place(partial: Path, path: Path) -> None:
    """Rename a file that was forced to the disk, and force the rename too."""
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is no file, or none that is whole."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
