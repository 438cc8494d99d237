"""The study's folder on this machine, and whose results lie in it."""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

from criteria_cli.errors import MachineError, StoreError
from criteria_cli.study.durable import private_folder, read_json, write_json
from criteria_cli.study.trial import FoldReport

MARK = "study.json"
LEAST_FREE_BYTES = 100 * 2**20


@dataclass(frozen=True)
class RunsFolder:
    """A study's folder.

    Attributes:
        uid: of the study whose results it holds; None if it holds none.
        trials: how many trials left something in it.
    """

    path: Path
    uid: str | None
    trials: int

    def refuse_other(self, uid: str | None) -> None:
        """Raise if the folder holds results of another study than `uid` (None: a new one).

        Raises:
            StoreError: naming what to do.
        """
        if self.uid is None or self.uid == uid or self.trials == 0:
            return
        name = self.path.name
        found = "has no study" if uid is None else "has another study"
        raise StoreError(
            f"storage {found} `{name}`, but `{_shown(self.path)}` holds "
            f"{self.trials} trials of one",
            hint="give the storage it was made with, or another `--name`; to start afresh, remove "
            "that folder",
            code="store.other_runs",
        )

    def keep(self, uid: str) -> None:
        """Write down whose folder it is."""
        if self.uid == uid:
            return
        try:
            write_json(self.path / MARK, {"schema": "criteria.runs/1", "uid": uid})
        except OSError as error:
            raise _unwritable(self.path, error) from None


def claim_folder(path: Path) -> RunsFolder:
    """Make the folder, or look into it.

    Raises:
        MachineError: it cannot be written, or the disk is nearly full.
    """
    try:
        private_folder(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    free = os.statvfs(path)
    if not os.access(path, os.W_OK) or free.f_flag & os.ST_RDONLY:
        raise _unwritable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    free_bytes = free.f_bavail * free.f_frsize
    if free_bytes < LEAST_FREE_BYTES:
        raise MachineError(
            f"`{_shown(path)}` has {free_bytes // 2**20} MiB free, a study needs at least "
            f"{LEAST_FREE_BYTES // 2**20}",
            code="machine.disk",
        )
    mark = read_json(path / MARK)
    trials = sum(1 for folder in path.glob("trial-*") if folder.is_dir())
    return RunsFolder(path, mark.get("uid") if mark else None, trials)


def folds_on_disk(trial: Path) -> dict[int, FoldReport]:
    """The finished folds in a trial's folder, by number, as every trainer writes them."""
    found: dict[int, FoldReport] = {}
    for path in trial.glob("fold-*.json"):
        with contextlib.suppress(KeyError, TypeError):  # not whole, or of another version
            report = FoldReport(**(read_json(path) or {})["report"])
            found[report.fold] = report
    return found


def _shown(path: Path) -> str:
    """The folder without the way to it, which may name somebody's home."""
    return f"{path.parent.name}/{path.name}"


def _unwritable(path: Path, error: OSError) -> MachineError:
    reason = (error.strerror or "unknown").lower()
    return MachineError(f"cannot write to `{_shown(path)}`: {reason}", code="machine.runs")
