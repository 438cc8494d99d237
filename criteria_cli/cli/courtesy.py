"""Standard error as a courtesy: a terminal that was closed, a reader that left or a full disk under
a log file ends what is said, never the work.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, TextIO


class Courtesy:
    """A stream that falls silent when it cannot be written any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._silent = False

    def write(self, text: str) -> int:
        try:
            if not self._silent:
                self._stream.write(text)
        except OSError:
            self._silent = True
        return len(text)

    def flush(self) -> None:
        try:
            if not self._silent:
                self._stream.flush()
        except OSError:
            self._silent = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def polite_stderr() -> None:
    """Put it in the place of `sys.stderr`, which is None where a shell closed it."""
    stream = sys.stderr if sys.stderr is not None else Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = Courtesy(stream)
