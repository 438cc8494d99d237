"""Memory models that this user's processes on this machine keep, and one probe per card at a time.

The study's store is where workers share a model; this folder serves commands without a store, and
workers that start together. A lock is held by the kernel for a process, so it ends with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from criteria_cli.training.memory import MemoryModel


def folder() -> Path:
    """Where models are kept: `criteria/memory` under the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "criteria" / "memory"


def load(key: str, known: Mapping[str, Any] | None = None) -> MemoryModel | None:
    """The model with this key, among `known` first; None if there is none that can be read."""
    for value in ((known or {}).get(key), _read(folder() / f"{key}.json")):
        if value is None:
            continue
        try:
            return MemoryModel.from_json(value)
        except (TypeError, KeyError):
            continue  # written by another version: as good as none
    return None


def save(key: str, model: MemoryModel) -> None:
    """Keep a model. A folder that cannot be written costs the next process a probe, no more."""
    target = folder() / f"{key}.json"
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=target.parent)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            json.dump(model.to_json(), file, allow_nan=False)
        Path(partial).replace(target)
    except OSError:
        return


@contextmanager
def only_probe_of(identity: str) -> Iterator[None]:
    """Wait until no other process of this machine probes the card, and keep others waiting."""
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"criteria-probe-{name}.lock"
    try:
        # another user's file can be locked, though not written
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        with suppress(OSError):  # another user was quicker
            os.fchmod(handle, 0o644)  # whatever the umask says: others wait for it too
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
