"""Where the time of a fold goes."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Literal

import torch

Phase = Literal["start", "data", "forward", "backward", "optimizer", "evaluation", "store"]
PHASES: tuple[Phase, ...] = (
    "start",
    "data",
    "forward",
    "backward",
    "optimizer",
    "evaluation",
    "store",
)


class PhaseClock:
    """Seconds per phase, counted in laps: a lap gives the time since the last one to its phase.

    On a card, laps are marks in its stream and cost no synchronisation; they are read when
    `seconds` is called.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[torch.cuda.Event, str]] = []
        self._last = 0.0
        self.lap("start")
        self._seconds.clear()

    def lap(self, phase: Phase) -> None:
        """Everything since the last lap was `phase`."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append((event, phase))
            return
        now = time.perf_counter()
        self._seconds[phase] += now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Seconds so far by phase, each with a `_s` at its end. Waits for a card."""
        if self._events:
            self._events[-1][0].synchronize()
            for (before, _), (after, phase) in zip(self._events, self._events[1:], strict=False):
                self._seconds[phase] += before.elapsed_time(after) / 1e3
            del self._events[:-1]
        return {f"{phase}_s": self._seconds[phase] for phase in PHASES}

    def add(self, seconds: dict[str, float]) -> None:
        """Count what an earlier process spent on the same fold."""
        for phase in PHASES:
            self._seconds[phase] += seconds.get(f"{phase}_s", 0.0)
