"""Optuna's own dashboard opens a store of ours, in the middle of a study."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from processes import Place, wait_until

from criteria_cli.hpo.url import read_url


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return json.loads(answer.read())


def answers(port: int) -> bool:
    try:
        get(port, "/api/studies")
    except OSError:
        return False
    return True


def test_the_dashboard_shows_a_study_that_runs(place: Place) -> None:
    place.write(trials=50, epochs=4)
    worker = place.start()
    worker.wait_for("TrialEnded")
    port = free_port()
    address = read_url(place.storage).sqlalchemy.render_as_string(hide_password=False)
    program = Path(sys.executable).with_name("optuna-dashboard")
    with (place.folder / "dashboard.log").open("wb") as log:
        dashboard = subprocess.Popen(
            [program, "--port", str(port), address], stdout=log, stderr=log
        )
    try:
        wait_until(lambda: answers(port), 60, "the dashboard's start")
        (study,) = get(port, "/api/studies")["study_summaries"]
        assert study["study_name"] == "s"
        shown = get(port, f"/api/studies/{study['study_id']}?after=0")["trials"]
        states = [trial["state"] for trial in shown]
        assert "Complete" in states
        complete = shown[states.index("Complete")]
        assert {param["name"] for param in complete["params"]} == {"learning_rate", "batch_size"}
        assert len(complete["intermediate_values"]) == 2
        assert worker.process.poll() is None
    finally:
        dashboard.kill()
        dashboard.wait(10)
    worker.signal(signal.SIGTERM)
    assert worker.end() == 75, worker.text
