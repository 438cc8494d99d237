"""Locks on files, which go with the process that holds them, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from criteria_cli.errors import MachineError


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
    nobody is kept out.

    Raises:
        MachineError: what is there is not a file: a folder, a pipe, or a link (never followed).
    """
    descriptor = _open(path)
    try:
        try:
            alone = try_lock(descriptor)
        except OSError:
            alone = True
        yield alone
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        # a link may lead to a file of somebody else's, and a pipe would be waited for
        flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
            raise
        raise _not_a_file(path) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_a_file(path)
    return descriptor


def _not_a_file(path: Path) -> MachineError:
    return MachineError(
        f"`{path.parent.name}/{path.name}` is not a file, it is where a lock belongs",
        hint="remove it",
        code="machine.lock",
    )
