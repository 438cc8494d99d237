"""Workers of this machine that have ended, known at once: each holds a lock on a file.

A lease says after a minute and a half that a worker is gone, on any machine. Where the dead worker
ran on this one, its file's lock is free at once, and its trial can be taken without waiting. Its
trainer holds the same lock: it outlives a killed supervisor for a moment, and may write a fold in
that moment.

Files of other machines in a shared folder are not looked at: some network file systems (Lustre with
`localflock`, BeeGFS as it comes) lock on each machine alone, and every worker elsewhere would seem
dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from criteria_cli.hpo.clock import boot_id
from criteria_cli.study.durable import private_folder
from criteria_cli.study.file_locks import try_lock

FOLDER = ".workers"


class Presence:
    """Our own file, locked while this process or one that it handed the lock to lives.

    Args:
        runs: the study's folder.
        worker: our id.

    Attributes:
        descriptor: the lock, for a child process to hold too.
    """

    def __init__(self, runs: Path, worker: str) -> None:
        self._path = _file(runs, worker)
        private_folder(self._path.parent)
        self.descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
        with contextlib.suppress(OSError):  # a file system without locks: the lease will tell
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def end(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self.descriptor)


def is_dead(runs: Path, worker: str) -> bool:
    """Whether a worker with a file here has ended; False where that cannot be told."""
    try:
        descriptor = os.open(_file(runs, worker), os.O_RDWR)
    except OSError:
        return False
    try:
        return try_lock(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _file(runs: Path, worker: str) -> Path:
    return runs / FOLDER / boot_id() / f"{worker}.lock"
