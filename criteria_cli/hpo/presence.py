"""Workers of this machine that have ended, known at once: each holds a lock on a file.

A lease says after a minute and a half that a worker is gone, on any machine. Where the dead worker
ran on this one, its file's lock is free at once, and its trial can be taken without waiting.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from criteria_cli.study.durable import private_folder

FOLDER = ".workers"


class Presence:
    """Our own file, locked while this process lives.

    Args:
        runs: the study's folder.
        worker: our id.
    """

    def __init__(self, runs: Path, worker: str) -> None:
        self._folder = runs / FOLDER
        private_folder(self._folder)
        self._path = _file(self._folder, worker)
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def end(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def is_dead(runs: Path, worker: str) -> bool:
    """Whether a worker with a file here has ended; False where that cannot be told."""
    try:
        descriptor = os.open(_file(runs / FOLDER, worker), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def sweep(runs: Path, known_dead: set[str]) -> None:
    """Remove the files of workers whose trials have been taken over."""
    for worker in known_dead:
        _file(runs / FOLDER, worker).unlink(missing_ok=True)


def _file(folder: Path, worker: str) -> Path:
    return folder / f"{worker}.lock"
