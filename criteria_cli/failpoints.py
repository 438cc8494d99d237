"""Named places where a test may make the program fail. Inert unless `CRITERIA_TESTING` is set.

`CRITERIA_FAULTS` lists `PLACE:ACTION@WHEN`, separated by commas. WHEN is a count from 1 (`@2`: the
second passage), a probability (`@p0.05`) or absent for every passage. Actions: `kill` (SIGKILL to
this process), `exit` (os._exit), `abort`, `raise`, `enospc`, `edquot`, `eio` (OSError), `hang`, and
`stop` (SIGSTOP to this process), and `full` (what SQLite says on a full disk). Where
`CRITERIA_FAULTS_ONCE` names a folder, each place fails once over all processes; where
`CRITERIA_FAULTS_GATE` names a file, only while it exists.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path

TESTING = os.environ.get("CRITERIA_TESTING") == "1"


class Injected(Exception):
    """A fault that a test asked for."""


@dataclass
class _Fault:
    action: str
    at: int | None
    chance: float | None
    passed: int = 0

    def due(self) -> bool:
        self.passed += 1
        if self.chance is not None:
            return random.random() < self.chance  # noqa: S311 - faults are not secrets
        return self.at is None or self.passed == self.at


def _read(text: str) -> dict[str, list[_Fault]]:
    faults: dict[str, list[_Fault]] = {}
    for entry in filter(None, text.split(",")):
        place, _, rest = entry.partition(":")
        action, _, when = rest.partition("@")
        chance = float(when[1:]) if when.startswith("p") else None
        at = int(when) if when and chance is None else None
        faults.setdefault(place, []).append(_Fault(action, at, chance))
    return faults


_FAULTS = _read(os.environ.get("CRITERIA_FAULTS", "")) if TESTING else {}
_LOCK = threading.Lock()
_ERRNO = {"enospc": errno.ENOSPC, "edquot": errno.EDQUOT, "eio": errno.EIO}


def failpoint(place: str) -> None:
    """Fail here if a test asked for it."""
    if not _FAULTS:
        return
    for fault in _FAULTS.get(place, ()):
        with _LOCK:
            due = _gate_is_open() and fault.due() and _first(place)
        if due:
            _fail(fault.action, place)


def _gate_is_open() -> bool:
    gate = os.environ.get("CRITERIA_FAULTS_GATE")
    return gate is None or Path(gate).exists()


def _first(place: str) -> bool:
    folder = os.environ.get("CRITERIA_FAULTS_ONCE")
    if folder is None:
        return True
    try:
        Path(folder, place).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _fail(action: str, place: str) -> None:
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(0.1)  # another thread may get the signal, and this one would run on
        case "exit":
            os._exit(70)
        case "abort":
            os.abort()
        case "full":
            raise sqlite3.OperationalError("database or disk is full")
        case "hang":
            threading.Event().wait()
        case "enospc" | "edquot" | "eio":
            number = _ERRNO[action]
            raise OSError(number, os.strerror(number))
        case _:
            raise Injected(place)
