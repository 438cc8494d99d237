"""What can be said about a study: plain frozen records, and the documents of `status --json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from criteria_cli.study.spec import Scalar

STATUS_SCHEMA = "criteria.status/1"

StudyState = Literal["new", "running", "stalled", "paused", "finished"]
"""`new`: no trial yet. `stalled`: work is left and no worker lives. `paused`: the circuit breaker
of the study is open. `finished`: the budget is spent."""

WorkerState = Literal["start", "idle", "load", "train", "eval", "save", "drain", "lost"]
"""`lost`: its heartbeat is overdue by the database's clock."""


@dataclass(frozen=True)
class TrialCounts:
    """Trials by what became of them."""

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    """Held by a live lease."""
    waiting: int = 0
    """Begun, given back or left behind by a dead worker; the next free worker goes on with it."""

    @property
    def finished(self) -> int:
        """What counts against the budget."""
        return self.complete + self.pruned


@dataclass(frozen=True)
class BestTrial:
    """A complete trial near the top."""

    trial: int
    value: float
    params: Mapping[str, Scalar]
    fold_scores: tuple[float, ...] = ()
    age_s: float | None = None
    """Seconds since it finished."""
    worker: str | None = None

    @property
    def fold_sd(self) -> float | None:
        """Sample standard deviation over folds."""
        n = len(self.fold_scores)
        if n < 2:
            return None
        mean = sum(self.fold_scores) / n
        return float((sum((score - mean) ** 2 for score in self.fold_scores) / (n - 1)) ** 0.5)


@dataclass(frozen=True)
class RungCount:
    """How many trials were stopped at one place."""

    reason: str
    fold: int
    epoch: int | None
    """None where a rule judges whole folds."""
    pruned: int


@dataclass(frozen=True)
class ConfirmStatus:
    """Stopped trials that are run to their end when the budget is spent."""

    wanted: int = 0
    complete: int = 0
    failed: int = 0
    running: int = 0
    """Held by a worker, or left for one."""


@dataclass(frozen=True)
class PruningStatus:
    """What pruning did so far."""

    folds_run: int = 0
    """Folds of finished trials that ran to their end."""
    folds_full: int = 0
    """Folds that the finished trials would have had without pruning."""
    epochs_run: int = 0
    """Epochs of finished trials, those of folds that were cut short among them."""
    epochs_full: int | None = None
    """The same without pruning, if every fold took what those that ended took on average; None
    before the first fold."""
    saved_fraction: float | None = None
    """1 - epochs run / epochs full."""
    by_reason: Mapping[str, int] = field(default_factory=dict)
    by_rung: tuple[RungCount, ...] = ()
    confirm: ConfirmStatus = ConfirmStatus()


@dataclass(frozen=True)
class FailureGroup:
    """Failed attempts of one kind on one machine."""

    cause: str
    machine: str
    count: int
    trials: tuple[int, ...]
    message: str
    """Of the latest."""


@dataclass(frozen=True)
class WorkerStatus:
    """A worker as the store knows it."""

    name: str
    machine: str
    device: str
    state: WorkerState
    trial: int | None = None
    fold: int | None = None
    epoch: int | None = None
    heartbeat_age_s: float | None = None
    device_name: str | None = None
    last_score: float | None = None
    best_score: float | None = None
    """Of the fold that runs."""
    trial_age_s: float | None = None
    examples_per_s: float | None = None
    memory_bytes: int | None = None
    done: int = 0
    """Trials that this worker finished."""
    failed: int = 0


@dataclass(frozen=True)
class Trouble:
    """Something a person should know: `status --check` exits 5 if `serious`."""

    code: str
    """Stable, such as `worker_lost`."""
    message: str
    hint: str = ""
    serious: bool = True


@dataclass(frozen=True)
class Spent:
    """Where the time of some folds went."""

    folds: int
    seconds: Mapping[str, float]
    """By phase, `start`, `data`, `forward`, `backward`, `optimizer`, `evaluation`, `store`; the
    evaluation's forward passes are `evaluation`."""
    examples_per_s: float | None
    """While training."""
    tokens_per_s: float | None
    padding: float | None
    """Share of the tokens that went through the device in training and were none."""


@dataclass(frozen=True)
class StudyStatus:
    """A study now, from one consistent read of the store."""

    name: str
    state: StudyState
    target: int
    """The budget: finished trials over all workers and restarts."""
    metric: str
    folds: int
    epochs: int
    """Per fold, at most, as the definition says."""
    trials: TrialCounts
    best: BestTrial | None
    leaders: tuple[BestTrial, ...] = ()
    """Up to five best complete trials, the best first."""
    eta_s: float | None = None
    eta_range_s: tuple[float, float] | None = None
    rate_per_hour: float | None = None
    """Finished trials an hour, lately."""
    age_s: float | None = None
    """Seconds since the study was made."""
    last_event_age_s: float | None = None
    pruning: PruningStatus = PruningStatus()
    failures: tuple[FailureGroup, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()
    spent: Spent | None = None
    """By the latest folds; None before the first."""
    adopted: int = 0
    """Attempts that went on with a trial of another worker or run."""
    data_sha256: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the worker that made the study."""
    now: str = ""
    """The database's time of this read, RFC 3339 in UTC."""
    troubles: tuple[Trouble, ...] = ()

    @property
    def healthy(self) -> bool:
        return not any(trouble.serious for trouble in self.troubles)

    def to_json(self) -> dict[str, Any]:
        """The document of `status NAME --json` and the last line of `hpo --json`."""
        return {
            "schema": STATUS_SCHEMA,
            "now": self.now,
            "study": self.study_json(),
            "pruning": asdict(self.pruning),
            "spent": None if self.spent is None else asdict(self.spent),
            "workers": [asdict(worker) for worker in self.workers],
            "failures": [asdict(group) for group in self.failures],
            "troubles": [asdict(trouble) for trouble in self.troubles],
        }

    def study_json(self) -> dict[str, Any]:
        """The study alone, as both documents of `status` have it."""
        return {
            "name": self.name,
            "state": self.state,
            "target": self.target,
            "metric": self.metric,
            "folds": self.folds,
            "epochs": self.epochs,
            "trials": asdict(self.trials),
            "best": _best_json(self.best),
            "leaders": [_best_json(leader) for leader in self.leaders],
            "eta_s": self.eta_s,
            "eta_range_s": list(self.eta_range_s) if self.eta_range_s else None,
            "rate_per_hour": self.rate_per_hour,
            "age_s": self.age_s,
            "last_event_age_s": self.last_event_age_s,
            "adopted": self.adopted,
            "data_sha256": self.data_sha256,
            "versions": dict(self.versions),
        }


def _best_json(best: BestTrial | None) -> dict[str, Any] | None:
    if best is None:
        return None
    return {
        "trial": best.trial,
        "value": best.value,
        "params": dict(best.params),
        "fold_scores": list(best.fold_scores),
        "fold_sd": best.fold_sd,
        "age_s": best.age_s,
        "worker": best.worker,
    }


def studies_to_json(studies: tuple[StudyStatus, ...], now: str) -> dict[str, Any]:
    """The document of `status --json`."""
    return {
        "schema": STATUS_SCHEMA,
        "now": now,
        "studies": [
            {
                **study.study_json(),
                "workers_live": sum(worker.state != "lost" for worker in study.workers),
                "workers_known": len(study.workers),
                "troubles": [asdict(trouble) for trouble in study.troubles],
            }
            for study in studies
        ],
    }
