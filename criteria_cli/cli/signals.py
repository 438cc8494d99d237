"""Signals of commands that work in this process: the first asks to save and stop, a second Ctrl-C
stops at once.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from criteria_cli.errors import Saved

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def answer_before_work() -> None:
    """Until the work installs its own handlers, a signal means: begin another time.

    A scheduler may take the machine back while libraries load; Python's own answer to SIGTERM and
    SIGUSR1 is to die, which the scheduler would take for a failure.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Saved(
            f"stopped by {signal.Signals(number).name} before anything began", code="saved.signal"
        )

    for number in _SIGNALS:
        signal.signal(number, stop)


class Stopping:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked

    def seen(self, number: int, _frame: FrameType | None) -> None:
        """The handler."""
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        sys.stderr.write(f"{signal.Signals(number).name}: saving, Ctrl-C again stops at once\n")


@contextmanager
def stopping() -> Iterator[Stopping]:
    """Watch for signals; the old handlers come back at the end."""
    flag = Stopping()
    before = {number: signal.signal(number, flag.seen) for number in _SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
