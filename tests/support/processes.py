"""Studies for tests, commands that run them as real processes, and waiting for what they say."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STUDY = """
schema = 1
name = "{name}"
[data]
format = "synthetic"
[validation]
folds = {folds}
[training]
epochs = {epochs}
[search]
learning_rate = {{ low = 1e-6, high = 1e-3, log = true }}
batch_size = {{ choices = [16, 32] }}
[pruner]
type = "{pruner}"
min_resource = 1
max_resource = {folds}
startup_trials = {startup}
[sampler]
type = "{sampler}"
[budget]
trials = {trials}
"""
QUICK = {
    "lease": 2.0, "beat": 0.3, "ping": 0.2, "progress": 20.0, "patience": 60.0, "answer": 1.0,
    "drain": 20.0, "poll": 0.1, "view": 1.0,
}  # fmt: skip


@dataclass
class Place:
    """A folder with a study file, a store and a runs folder."""

    folder: Path
    storage: str
    name: str = "s"
    timings: dict[str, float] = field(default_factory=lambda: dict(QUICK))
    started: list[Command] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.toml"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def log(self) -> Path:
        return self.runs / self.name / "hpo.log"

    def write(self, **values: Any) -> Place:
        """Write the study file."""
        settings = {
            "name": self.name, "folds": 2, "epochs": 2, "pruner": "none", "startup": 2,
            "sampler": "random", "trials": 4, **values,
        }  # fmt: skip
        self.file.write_text(STUDY.format(**settings))
        return self

    def start(self, *, env: dict[str, str] | None = None, **options: Any) -> Command:
        """Start a worker as a process of its own."""
        arguments = [str(self.file), self.storage, str(self.runs), json.dumps(options)]
        program = [sys.executable, str(HERE / "run_worker.py")]
        self.started.append(Command([*program, *arguments], self, env or {}))
        return self.started[-1]

    def clear(self) -> None:
        """End whatever a test left running."""
        for command in self.started:
            if command.process.poll() is None:
                command.kill()

    def environment(self, extra: dict[str, str]) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("CRITERIA_")}
        return {
            **kept,
            "CRITERIA_TESTING": "1",
            "CRITERIA_TIMINGS": ",".join(f"{k}={v}" for k, v in self.timings.items()),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(HERE),
            **extra,
        }


class Command:
    """A running process whose lines can be waited for."""

    def __init__(self, arguments: list[str], place: Place, env: dict[str, str]) -> None:
        self.lines: list[str] = []
        self._heard = threading.Condition()
        self._over = False
        self.process = subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=place.folder,
            env=place.environment(env),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._heard:
                    self.lines.append(line.rstrip("\n"))
                    self._heard.notify_all()
        with self._heard:
            self._over = True
            self._heard.notify_all()

    def wait_for(self, pattern: str, timeout: float = 60.0, count: int = 1) -> str:
        """The line that matches for the `count`th time."""
        expression = re.compile(pattern)

        def found() -> list[str]:
            return [line for line in self.lines if expression.search(line)]

        with self._heard:
            self._heard.wait_for(lambda: len(found()) >= count or self._over, timeout)
            matching = found()
        assert len(matching) >= count, f"no `{pattern}` in:\n{self.text}"
        return matching[count - 1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self._reader.join(10)

    def end(self, timeout: float = 90.0) -> int:
        """Wait for its end; the exit status."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"did not end within {timeout:.0f} s:\n{self.text}") from None
        self._reader.join(10)
        return status

    def trainers(self) -> list[int]:
        """Process ids of its trainers."""
        return children_of(self.pid)


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return []
    for task in tasks:
        try:
            found += map(int, (task / "children").read_text().split())
        except FileNotFoundError:
            continue
    return found


def is_running(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Any, timeout: float = 30.0, what: str = "it") -> None:
    """Wait for something that no process announces."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout, f"{what} did not happen in {timeout:.0f} s"
        time.sleep(0.02)
