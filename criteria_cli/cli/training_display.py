"""How `criteria train` is watched: one line that renews itself in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from criteria_cli.cli.event_lines import PROGRESS_EVERY_S, pairs, utc_now
from criteria_cli.cli.layout import is_terminal, width_of
from criteria_cli.cli.signals import Stopping
from criteria_cli.cli.words import bar, clock, count, score
from criteria_cli.study.final import TrainOrder
from criteria_cli.study.trial import EpochReport, Event, FoldReport, Progress, Report, Verdict


class TrainingLines:
    """Hears a training's events and answers whether to go on."""

    def __init__(
        self,
        order: TrainOrder,
        stopped: Stopping,
        stream: TextIO,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folds = order.spec.validation.fold_count
        self._epochs = order.hyperparameters.training.epochs
        self._metric = order.spec.validation.metric
        self._stopped = stopped
        self._stream = stream
        self._now = now
        self._start = now()
        self._written = now()
        self._drawn = is_terminal(stream)
        self._score: float | None = None

    def __call__(self, event: Event) -> Verdict:
        match event:
            case Progress():
                self._progress(event)
            case EpochReport():
                self._score = event.score
            case FoldReport():
                self._fold(event)
        return Verdict.YIELD if self._stopped else Verdict.CONTINUE

    def close(self) -> None:
        """Leave a clean line behind."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _progress(self, event: Progress) -> None:
        share = event.step / event.steps if event.steps else 0.0
        if self._drawn:
            text = (
                f"{self._name(event.fold)}  epoch {event.epoch}/{self._epochs}  "
                f"{bar(share, 16)} {event.phase:<5}  {self._metric} {score(self._score)}  "
                f"{clock(self._now() - self._start)}"
            )
            width = (width_of(self._stream) or 80) - 1
            self._stream.write(f"\r\x1b[K{text[:width]}")
            self._stream.flush()
        elif self._now() - self._written >= PROGRESS_EVERY_S:
            self._written = self._now()
            facts = pairs(
                {
                    "epoch": f"{event.epoch}/{self._epochs}",
                    "step": f"{event.step}/{event.steps}",
                    "loss": event.loss,
                    "score": self._score,
                    "ex_s": event.examples_per_s,
                }
            )
            self._line(f"{utc_now()} {self._name(event.fold)} {facts}")

    def _fold(self, event: FoldReport) -> None:
        facts = f"{score(event.score)}, best epoch {event.best_epoch} of {event.epochs}"
        replaced = event.costs.get("augmentations_applied")
        if replaced is not None:
            facts += f", {replaced:.0f} times a rewritten post"
        if event.fold <= self._folds:
            self._line(f"{self._name(event.fold)}  {self._metric} {facts}")
        else:
            self._line(f"{self._name(event.fold)}  done, {count(event.epochs, 'epoch')}")
        self._score = None

    def _name(self, fold: int) -> str:
        return f"fold {fold}/{self._folds}" if fold <= self._folds else "all data"

    def _line(self, text: str) -> None:
        start = "\r\x1b[K" if self._drawn else ""
        self._stream.write(f"{start}{text}\n")
        self._stream.flush()


@contextmanager
def following(order: TrainOrder, stopped: Stopping) -> Iterator[Report]:
    """The report of a training, on standard error."""
    lines = TrainingLines(order, stopped, sys.stderr)
    try:
        yield lines
    finally:
        lines.close()
