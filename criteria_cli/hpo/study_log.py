"""The study's log, `runs/NAME/hpo.log`."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
from collections.abc import Iterator
from pathlib import Path

from criteria_cli.study.log_lines import log_formatter


class _QuietHandler(logging.handlers.WatchedFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A full disk stops the log, not the study."""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[Path]:
    """Write our log lines to the study's file; a file that is moved away is opened anew."""
    handler = _QuietHandler(path, encoding="utf-8")
    handler.setFormatter(log_formatter())
    logger = logging.getLogger("criteria_cli")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield path
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
