"""What the workers of one command share, and what a worker shows of itself while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from criteria_cli.hpo import rows
from criteria_cli.hpo.events import HpoEvent, LiveWorker
from criteria_cli.hpo.leases import Lease
from criteria_cli.hpo.store_thread import StoreThread
from criteria_cli.hpo.timings import Timings
from criteria_cli.study.spec import StudySpec


@dataclass
class Stop:
    """Why and how soon the workers are to end."""

    draining: threading.Event = field(default_factory=threading.Event)
    """Save, give the trial back, end."""
    hurrying: threading.Event = field(default_factory=threading.Event)
    """End now."""
    began: float = 0.0
    """When draining began, monotonic."""
    over_at: float | None = None
    """Take no trials after this moment, monotonic."""

    def drain(self) -> None:
        if not self.draining.is_set():
            self.began = time.monotonic()
            self.draining.set()

    def out_of_time(self) -> bool:
        return self.over_at is not None and time.monotonic() > self.over_at


@dataclass(frozen=True)
class Shared:
    """Given to every worker of a command."""

    spec: StudySpec
    runs: Path
    """The study's own folder."""
    store: StoreThread
    timings: Timings
    stop: Stop
    notify: Callable[[HpoEvent], None]
    data_sha256: str
    """Of the data that the study was joined with."""

    def learn(self, key: str, memory: Mapping[str, Any]) -> None:
        """Have the store keep a memory model."""
        self.store.submit(lambda connection, _: rows.keep_probe(connection, key, memory))


class Live:
    """A worker's facts, written by its own thread and read by others."""

    def __init__(self, worker: LiveWorker) -> None:
        self._lock = threading.Lock()
        self._worker = worker
        self._began: float | None = None
        self._lease: Lease | None = None
        self.lost = threading.Event()
        """Set when the lease turns out to be somebody else's."""
        self.over = threading.Event()
        """Set when the budget was lowered and has no place for the trial."""

    def set(self, **facts: Any) -> None:
        with self._lock:
            self._worker = replace(self._worker, **facts)

    def begin(self, lease: Lease, **facts: Any) -> None:
        """A trial is ours."""
        with self._lock:
            self.lost.clear()
            self.over.clear()
            self._lease = lease
            self._began = time.monotonic()
            self._worker = replace(
                self._worker,
                trial=lease.trial,
                fold=None,
                epoch=None,
                step=0,
                steps=0,
                loss=None,
                last_score=None,
                best_score=None,
                mean_score=None,
                examples_per_s=None,
                next_cut=None,
                **facts,
            )

    def end(self) -> None:
        """The trial has left us."""
        with self._lock:
            self._lease = None
            self._began = None
            self._worker = replace(self._worker, trial=None, fold=None, epoch=None, state="idle")

    def lose(self, lease: Lease) -> None:
        """Somebody else holds this lease; nothing happens if the trial has just left us."""
        with self._lock:
            if self._lease == lease:
                self.lost.set()

    def give_back(self, lease: Lease) -> None:
        """The budget has no place for this trial; nothing happens if it has just left us."""
        with self._lock:
            if self._lease == lease:
                self.over.set()

    @property
    def lease(self) -> Lease | None:
        with self._lock:
            return self._lease

    @property
    def seconds(self) -> float:
        """On this trial."""
        began = self._began
        return time.monotonic() - began if began is not None else 0.0

    def view(self) -> LiveWorker:
        with self._lock:
            return replace(self._worker, seconds=self.seconds)

    def progress(self) -> dict[str, Any]:
        """What goes into the worker's row."""
        view = self.view()
        return {
            "trial": view.trial,
            "fold": view.fold,
            "epoch": view.epoch,
            "last_score": view.last_score,
            "best_score": view.best_score,
            "seconds": round(view.seconds, 1),
            "examples_per_s": view.examples_per_s,
            "memory_bytes": view.memory_bytes,
        }


def utc() -> str:
    """Now, RFC 3339 in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
