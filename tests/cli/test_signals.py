"""A signal that comes before the work has begun."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# the command line as it is, with a command that waits where libraries would be loading
WAITS = """
import signal, sys
from criteria_cli.cli import app

def loading(*arguments, **options):
    print("loading", flush=True)
    signal.pause()

app.app = loading
sys.argv = ["criteria", "hpo", "s.toml"]
sys.exit(app.main())
"""


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1], ids=lambda n: n.name
)
def test_a_signal_while_libraries_load_asks_to_run_again(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert said.splitlines() == [f"stopped by {number.name} before anything began"]
