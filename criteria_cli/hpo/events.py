"""What a running `criteria hpo` tells whoever draws it: views to redraw and events to log.

The observer is called in the supervisor's main thread only, one call at a time, about once a
second; it must return quickly. An exception from it ends the run as a bug.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from criteria_cli.hpo.facts import StudyStatus, WorkerState
from criteria_cli.study.spec import Scalar


@dataclass(frozen=True)
class LiveWorker:
    """A worker of this command, this second."""

    name: str
    device: str
    """`cpu` or `cuda:N`."""
    device_name: str
    """As the device calls itself; empty before the trainer is ready."""
    state: WorkerState
    trial: int | None = None
    attempt: int = 1
    fold: int | None = None
    folds: int = 1
    epoch: int | None = None
    epochs: int = 1
    """Epochs of a fold at most, for this trial."""
    step: int = 0
    steps: int = 0
    """Optimiser steps done in this epoch, and in all of it."""
    loss: float | None = None
    last_score: float | None = None
    best_score: float | None = None
    """Of the fold that runs."""
    mean_score: float | None = None
    """Over the trial's finished folds."""
    examples_per_s: float | None = None
    memory_bytes: int | None = None
    seconds: float = 0.0
    """On this trial, in this attempt."""
    next_cut: str | None = None
    """Where the pruner looks next, such as `fold 3`; None if it will not."""


@dataclass(frozen=True)
class StudyView:
    """Everything a live display shows."""

    study: StudyStatus
    """From the store, at most a few seconds old."""
    workers: tuple[LiveWorker, ...]
    elapsed_s: float
    """Since this command began."""
    store_away_s: float | None = None
    """How long the store has not answered, or None."""
    spooled: int = 0
    """Records that wait for the store."""


@dataclass(frozen=True)
class Happened:
    """Common to all events. Times are UTC, RFC 3339 with seconds."""

    at: str
    worker: str
    """Empty for what concerns the whole command."""


@dataclass(frozen=True)
class WorkerStarting(Happened):
    """A trainer was started; with a large model it takes a minute or two to be ready."""

    device: str = "cpu"
    device_name: str = ""
    """Empty for a CPU, whose name the trainer knows."""


@dataclass(frozen=True)
class WorkerReady(Happened):
    device: str = "cpu"
    device_name: str = ""
    precision: str = ""
    pairs: int = 0
    cut_posts: int = 0
    """Posts too long for the model to read them whole."""
    unread: float = 0.0
    """The share of the posts' tokens that is therefore not read."""
    seconds: float = 0.0
    """From the start of the trainer to its readiness."""


@dataclass(frozen=True)
class TrialStarted(Happened):
    trial: int = 0
    attempt: int = 1
    params: Mapping[str, Scalar] = field(default_factory=dict)
    adopted_from: str | None = None
    """The worker that left the trial behind; None for a new trial."""
    folds_done: int = 0
    confirms: int | None = None
    """The stopped trial that this one finishes."""


@dataclass(frozen=True)
class EpochEnded(Happened):
    trial: int = 0
    fold: int = 1
    folds: int = 1
    epoch: int = 1
    epochs: int = 1
    score: float = 0.0
    best: float = 0.0
    loss: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class FoldEnded(Happened):
    trial: int = 0
    fold: int = 1
    folds: int = 1
    score: float = 0.0
    best_epoch: int = 1
    epochs: int = 1
    collapsed: bool = False
    """Whether the model gives every pair the same score."""


@dataclass(frozen=True)
class TrialEnded(Happened):
    """A trial left this worker for good, or (`yielded`, `lost`) until somebody goes on with it."""

    trial: int = 0
    state: str = "complete"
    """`complete`, `pruned`, `failed`, `retried`, `yielded` or `lost`."""
    score: float | None = None
    seconds: float = 0.0
    fold: int | None = None
    epoch: int | None = None
    """Where it stood."""
    reason: str = ""
    """Why it was pruned or failed, in words."""
    cause: str = ""
    """For failures, a word of `criteria_cli.study.trial.CAUSES`."""
    best: bool = False
    """It is the study's best so far."""


@dataclass(frozen=True)
class TrainerRestarted(Happened):
    cause: str = ""
    message: str = ""


@dataclass(frozen=True)
class StoreAway(Happened):
    cause: str = ""


@dataclass(frozen=True)
class StoreBack(Happened):
    seconds: float = 0.0
    sent: int = 0
    """Records that had waited."""


@dataclass(frozen=True)
class SignalSeen(Happened):
    signal: str = ""
    """Such as `SIGTERM`."""


@dataclass(frozen=True)
class WorkerStopped(Happened):
    """A worker of this command takes no more trials."""

    reason: str = ""
    message: str = ""
    """One of `done`, `hours`, `signal`, `breaker`, `paused`, `device`, `store`, and in words."""


HpoEvent = (
    WorkerStarting
    | WorkerReady
    | TrialStarted
    | EpochEnded
    | FoldEnded
    | TrialEnded
    | TrainerRestarted
    | StoreAway
    | StoreBack
    | SignalSeen
    | WorkerStopped
)

Observer = Callable[[HpoEvent | StudyView], None]
