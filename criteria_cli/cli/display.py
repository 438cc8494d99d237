"""Chooses how a running command is watched: a live screen in a terminal, lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from criteria_cli.cli.layout import is_terminal

if TYPE_CHECKING:
    from criteria_cli.cli.event_lines import EventLines
    from criteria_cli.cli.live import LiveScreen


@contextmanager
def watching(log: str) -> Iterator[LiveScreen | EventLines]:
    """The observer of a search, closed whatever happens."""
    screen: LiveScreen | EventLines
    if is_terminal(sys.stderr) and os.environ.get("CRITERIA_PROGRESS") != "plain":
        from criteria_cli.cli.live import LiveScreen

        screen = LiveScreen(sys.stderr, log)
    else:
        from criteria_cli.cli.event_lines import EventLines

        screen = EventLines(sys.stderr)
    try:
        yield screen
    finally:
        screen.close()
