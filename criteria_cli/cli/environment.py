"""What `criteria` reads from the environment, and the warning about a name it does not know."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

VARIABLES: dict[str, str] = {
    "CRITERIA_STORAGE": "the store, as `--storage`; may hold a password",
    "CRITERIA_RUNS": "the folder of all results, default `runs`",
    "CRITERIA_DATA": "the data, as `--data`",
    "CRITERIA_WORKER": "this worker's name, default its machine and device",
    "CRITERIA_DRAIN_S": "seconds for saving after a signal, default 120",
    "CRITERIA_DEBUG": "1: a traceback, as `--debug`",
    "CRITERIA_PROGRESS": "`plain`: event lines in a terminal too",
    "CRITERIA_VRAM_LIMIT": "treat a card as one of this size, such as `24GiB`",
}
"""Every variable of ours, with what it does. A test compares them with the source."""

INTERNAL = (
    "CRITERIA_TESTING",
    "CRITERIA_FAULTS",
    "CRITERIA_FAULTS_ONCE",
    "CRITERIA_FAULTS_GATE",
    "CRITERIA_SIMULATED",
    "CRITERIA_TIMINGS",
    "CRITERIA_TRAINER",
)
"""Read under tests alone."""


def runs_directory() -> Path:
    """Where results go."""
    return Path(os.environ.get("CRITERIA_RUNS") or "runs").expanduser()


def thread_count() -> int:
    """CPU threads of a command that computes: OMP_NUM_THREADS, else the cores it may use."""
    from criteria_cli.training.threads import wanted

    return wanted()


def unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """A warning for each variable that looks like ours and is not."""
    for name in sorted(environ):
        if name.startswith("CRITERIA_") and name not in VARIABLES and name not in INTERNAL:
            from difflib import get_close_matches

            close = get_close_matches(name, VARIABLES, n=1)
            suggestion = f", did you mean {close[0]}?" if close else ""
            yield f"unknown environment variable {name}{suggestion}"
