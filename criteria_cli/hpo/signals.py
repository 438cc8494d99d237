"""Signals: a handler notes them, the main loop answers them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@dataclass
class Caught:
    """What the signal handler writes and the main loop reads."""

    first: str = ""
    interrupts: int = 0


@contextlib.contextmanager
def noting_signals() -> Iterator[Caught]:
    """Note signals instead of ending of them."""
    caught = Caught()

    def note(number: int, _: FrameType | None) -> None:
        caught.first = caught.first or signal.Signals(number).name
        if number == signal.SIGINT:
            caught.interrupts += 1

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
