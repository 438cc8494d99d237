"""Optuna's dashboard opens a store while a study runs in it, and changes nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from desk import desks
from invariants import check
from postgres_server import PostgresServer
from processes import Place, wait_until

DASHBOARD = Path(sys.executable).with_name("optuna-dashboard")


class Dashboard:
    """A running dashboard; `get` reads a path of it."""

    def __init__(self, address: str, process: subprocess.Popen[str]) -> None:
        self._address = address
        self._process = process

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self._address}{path}", timeout=30) as answer:
            body = answer.read().decode()
            return json.loads(body) if "json" in answer.headers["Content-Type"] else body

    def answers(self) -> bool:
        assert self._process.poll() is None, self._process.communicate()[0]
        try:
            self.get("/api/meta")
        except urllib.error.URLError:
            return False
        return True

    def study(self, name: str) -> Any:
        """All that it shows of a study."""
        studies = self.get("/api/studies")["study_summaries"]
        (found,) = [study for study in studies if study["study_name"] == name]
        return self.get(f"/api/studies/{found['study_id']}")


@contextmanager
def dashboard(storage: str, folder: Path) -> Iterator[Dashboard]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = storage.replace("postgresql://", "postgresql+psycopg2://")
    process = subprocess.Popen(
        [str(DASHBOARD), address, "--port", str(port), "--server", "wsgiref", "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
    )
    try:
        shown = Dashboard(f"http://127.0.0.1:{port}", process)
        wait_until(shown.answers, 60, "the dashboard")
        yield shown
    finally:
        process.kill()
        process.communicate()


def test_it_shows_a_study_and_its_trials_while_it_runs(storage: str, tmp_path: Path) -> None:
    place = Place(tmp_path, storage).write(trials=4, epochs=3)
    worker = place.start(env={"TRAINER_FAULTS": "trainer.epoch:stop@16"})  # in the third trial
    worker.wait_for(r"EpochEnded.*trial=2")
    with dashboard(storage, tmp_path) as shown:
        assert "<title>Optuna Dashboard" in shown.get("/dashboard")
        study = shown.study(place.name)
    assert study["directions"] == ["maximize"]
    assert [trial["state"] for trial in study["trials"]] == ["Complete", "Complete", "Running"]
    for trial in study["trials"]:
        assert {param["name"] for param in trial["params"]} == {"learning_rate", "batch_size"}
        assert trial["intermediate_values"]
    worker.kill()
    again = place.start()
    assert again.end() == 0, again.text
    check(storage, place.runs, place.name, target=4)


def test_a_role_that_may_only_read_is_enough(
    postgres: PostgresServer, postgres_template: str, tmp_path: Path
) -> None:
    database = postgres.new_database(postgres_template)
    with desks(postgres.url(database), 1) as (desk,):
        desk.whole_trial()
    postgres.execute("create role looker login")
    postgres.execute("grant select on all tables in schema public to looker", database)
    url = postgres.url(database).replace("postgres@", "looker@")
    with dashboard(url, tmp_path) as shown:
        assert [trial["state"] for trial in shown.study("s")["trials"]] == ["Complete"]
