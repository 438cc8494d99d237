"""How a line of a study's log looks: supervisors and trainers write to the same file."""

from __future__ import annotations

import logging
import time


def log_formatter() -> logging.Formatter:
    """Time in UTC, level, thread, message."""
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(threadName)s %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    return formatter
