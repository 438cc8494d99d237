"""Where one attempt at a trial writes, and how it loses that place to the next.

A worker that was frozen beyond its lease may wake beside the one that took its trial over, in the
same folder. A token keeps it from changing the store. Here it is kept from changing files: each
attempt writes them in a folder of its own, and a rename puts them into the trial's. Whoever takes
the trial over takes that folder away first. So a file of the older attempt was in place before the
newer one looked, or its rename finds nothing to rename, at whatever instant the process was frozen;
no clock and no lock is asked, and it holds where several machines share the folder.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from criteria_cli.errors import TrialFailed
from criteria_cli.study.durable import private_folder
from criteria_cli.study.trial import Outcome, TrialRun

_PREFIX = ".attempt-"


@dataclass(frozen=True)
class Attempt:
    """An attempt at a trial, in order: a later trial that writes in the same folder, as a
    confirmation does, comes after all attempts of the one before."""

    trial_folder: Path
    trial: int
    token: int
    """Grows with every holder of the trial."""

    @property
    def folder(self) -> Path:
        """Where to write what is then renamed; gone once a later attempt has begun."""
        return self.trial_folder / f"{_PREFIX}{self.trial}-{self.token}"

    def begin(self) -> None:
        """Take the trial's folder; nothing happens if a later attempt has it.

        Raises:
            OSError: it cannot be written.
        """
        private_folder(self.trial_folder)
        self.folder.mkdir(mode=0o700, exist_ok=True)  # first: of two, one must see the other
        if self.is_superseded():
            _take_away(self.folder)
            return
        for key, folder in self._all():
            if key < (self.trial, self.token):
                _take_away(folder)

    def is_superseded(self) -> bool:
        """Whether a later attempt has begun."""
        return any(key > (self.trial, self.token) for key, _ in self._all())

    def _all(self) -> list[tuple[tuple[int, int], Path]]:
        found = []
        for path in self.trial_folder.glob(f"{_PREFIX}*-*"):
            trial, _, token = path.name.removeprefix(_PREFIX).partition("-")
            if trial.isdecimal() and token.isdecimal():
                found.append(((int(trial), int(token)), path))
        return found


def unless_superseded(run: TrialRun, train: Callable[[Path], Outcome]) -> Outcome:
    """Train a trial, unless or until another worker writes in its folder: then it is given back.

    Args:
        train: is given the folder through which files come into the trial's.

    Raises:
        OSError, TrialFailed: as `train`, for other reasons than a folder that was taken away.
    """
    attempt = Attempt(run.directory, run.number, run.attempt)
    attempt.begin()
    try:
        if not attempt.is_superseded():
            return train(attempt.folder)
    except (OSError, TrialFailed):
        if not attempt.is_superseded():
            raise
    return Outcome("yielded", None)


def _take_away(folder: Path) -> None:
    gone = folder.with_name(f".gone-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):  # another was quicker
        folder.rename(gone)  # at one stroke: its owner may be writing in it
        shutil.rmtree(gone, ignore_errors=True)
