"""How far `criteria predict` is: a bar in a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from typing import TextIO

from criteria_cli.cli.event_lines import PROGRESS_EVERY_S, utc_now
from criteria_cli.cli.layout import is_terminal, width_of
from criteria_cli.cli.signals import Stopping
from criteria_cli.cli.words import bar, duration
from criteria_cli.study.prediction import PredictProgress


class PredictionLine:
    """Hears of progress and answers whether to go on."""

    def __init__(self, stopped: Stopping, stream: TextIO) -> None:
        self._stopped = stopped
        self._stream = stream
        self._drawn = is_terminal(stream)
        self._written = time.monotonic()

    def __call__(self, progress: PredictProgress) -> bool:
        share = progress.posts / progress.total if progress.total else 1.0
        rate = progress.posts_per_s
        left = "" if not rate else f"  {duration((progress.total - progress.posts) / rate)} left"
        if self._drawn:
            text = f"{bar(share, 30)} {progress.posts}/{progress.total} posts{left}"
            self._stream.write(f"\r\x1b[K{text[: (width_of(self._stream) or 80) - 1]}")
            self._stream.flush()
        elif time.monotonic() - self._written >= PROGRESS_EVERY_S:
            self._written = time.monotonic()
            self._stream.write(f"{utc_now()} {progress.posts}/{progress.total} posts{left}\n")
            self._stream.flush()
        return not self._stopped

    def close(self) -> None:
        """Leave a clean line behind."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
