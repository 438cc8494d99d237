"""What `criteria hpo` is asked to do, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from criteria_cli.hpo.facts import StudyStatus


@dataclass(frozen=True)
class SearchOptions:
    """The flags of `criteria hpo`, resolved against environment and defaults."""

    storage: str
    """A checked URL, see `criteria_cli.hpo.url.read_url`; it may hold a password."""
    runs: Path
    """The folder of all studies' results; a study uses `runs/NAME`."""
    name: str | None = None
    """The study's name; without one, the definition's."""
    trials: int | None = None
    """A new budget for the whole study; None keeps the study's, or takes the definition's."""
    confirm: int | None = None
    """Stopped trials to finish at the end, in the whole study; None as for `trials`."""
    hours: float | None = None
    """Take no trials after so long."""
    workers: int | Literal["auto"] = 1
    device: str = "auto"
    """`auto`, `cpu` or `cuda:N`."""


@dataclass(frozen=True)
class SearchResult:
    """How a search by this command ended, when it did not fail."""

    status: StudyStatus
    ended: Literal["finished", "hours"]
    """`finished`: the budget of the study is spent. `hours`: this command's time is over."""
    log: Path
    """Where this command and its trainers wrote what they did."""
