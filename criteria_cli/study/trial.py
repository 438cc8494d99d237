"""One trial: what it is given and what it says while it runs.

These words cross the process border between the supervisor, which knows Optuna and no torch, and
the trainer, which knows torch and no Optuna. Folds and epochs count from 1 everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from criteria_cli.study.spec import Hyperparameters, StudySpec

CAUSES = (
    "cuda_oom",  # does not fit even one pair at a time
    "nan_loss",  # the loss stopped being a number
    "crashed",  # the trainer ended by a signal of its own (segmentation fault, abort)
    "killed",  # the trainer was killed from outside, often for memory
    "stuck",  # no progress within the limit
    "data",  # the data changed or cannot be read
    "model",  # the checkpoint cannot be loaded
    "device",  # the device is gone
    "disk",  # results cannot be written
    "error",  # anything else
)
"""Why a trial fails. A closed list, shown by `status` and stored."""


class Verdict(StrEnum):
    """The answer to a report."""

    CONTINUE = "continue"
    STOP = "stop"
    """Pruned: end now, keep what was reported."""
    YIELD = "yield"
    """Save a checkpoint and return; somebody goes on later."""


@dataclass(frozen=True)
class Progress:
    """A sign of life between epochs. Never waits for an answer."""

    fold: int
    epoch: int
    phase: Literal["load", "train", "eval", "save"]
    step: int
    """Optimiser steps done in this epoch."""
    steps: int
    """Optimiser steps of this epoch."""
    loss: float | None = None
    """Mean training loss of the epoch so far."""
    examples_per_s: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class EpochReport:
    """One epoch's validation."""

    fold: int
    epoch: int
    score: float
    """The study's metric on the fold's validation pairs, in [0, 1]."""
    best: float
    """The best such score of this fold so far."""
    train_loss: float
    seconds: float


@dataclass(frozen=True)
class FoldReport:
    """One finished fold. Written to disk before it is reported."""

    fold: int
    score: float
    """The study's metric at the fold's best epoch, in [0, 1]."""
    best_epoch: int
    epochs: int
    """Epochs that ran."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Precision, recall, F1 and so on over all pairs of the fold."""
    per_criterion: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    """Seconds per phase, examples per second, share of padding."""
    reliability: Sequence[Sequence[float]] = ()
    """By predicted probability, in bins: pairs, their mean probability, their positives."""


Event = Progress | EpochReport | FoldReport
Report = Callable[[Event], Verdict]
"""Called by the trainer; `Progress` may be answered with the last verdict known."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: Literal["complete", "pruned", "yielded"]
    score: float | None
    """Mean over the finished folds; None if there is none."""
    folds: tuple[FoldReport, ...] = ()


@dataclass(frozen=True)
class TrialRun:
    """Where a trial runs and which one it is."""

    number: int
    seed: int
    """A function of study and trial alone."""
    directory: Path
    """`fold-K.json` of finished folds and checkpoints live here; finished folds are reused."""
    attempt: int = 1
    """Grows with every worker that has the trial; see `attempts`."""
    finished: tuple[FoldReport, ...] = ()
    """Folds that the store knows as finished, perhaps on a machine with another disk."""


class RunTrial(Protocol):
    """The seam between the search and the training."""

    def __call__(
        self,
        spec: StudySpec,
        hyperparameters: Hyperparameters,
        *,
        report: Report,
        run: TrialRun | None = None,
    ) -> Outcome:
        """Train every fold that is not finished.

        Raises:
            TrialFailed: with its cause.
        """
        ...


_EVENTS: dict[str, type[Progress] | type[EpochReport] | type[FoldReport]] = {
    "progress": Progress,
    "epoch": EpochReport,
    "fold": FoldReport,
}


def event_to_json(event: Event) -> dict[str, Any]:
    """An event as a JSON object with its kind under `event`."""
    kind = next(name for name, cls in _EVENTS.items() if type(event) is cls)
    return {"event": kind, **asdict(event)}


def event_from_json(value: Mapping[str, Any]) -> Event:
    """The inverse of `event_to_json`."""
    fields = dict(value)
    return _EVENTS[fields.pop("event")](**fields)
