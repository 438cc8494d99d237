"""Locks on files, which go with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def try_lock(descriptor: int) -> bool:
    """Lock an open file; False where another process holds it.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def held_alone(path: Path) -> Iterator[bool]:
    """Hold a lock file; False where another process holds it. Where the file system has no locks,
    nobody is kept out."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            alone = try_lock(descriptor)
        except OSError:
            alone = True
        yield alone
    finally:
        os.close(descriptor)
