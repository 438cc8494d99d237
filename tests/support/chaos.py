"""Chaos: many workers, one of them killed every half second, the server crashed in between."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass

from invariants import check, trained_twice
from postgres_server import PostgresServer
from processes import HERE, Place, children_of, is_running

from criteria_cli.errors import StoreError
from criteria_cli.hpo import status
from criteria_cli.hpo.facts import StudyStatus


@dataclass
class ChaosFigures:
    """What a chaos run came to."""

    database: str
    workers: int
    trials: int
    seed: int
    finished: int = 0
    lost: int = 0
    """Trials that were begun and neither finished nor failed."""
    failed: int = 0
    duplicated: int = 0
    """Results that stand twice; the checker raises before this is more than 0."""
    kills_supervisor: int = 0
    kills_trainer: int = 0
    server_crashes: int = 0
    attempts: int = 0
    epochs: int = 0
    epochs_again: int = 0
    folds_again: int = 0
    seconds: float = 0.0
    """From the first start to the end of the study, under fire throughout."""
    kill_every_s: float = 0.0
    """As it came out; what was asked for is half a second."""

    def to_json(self) -> dict[str, object]:
        return asdict(self)


class Nursery:
    """See `nursery.py`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "nursery.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=place.folder, env=place.environment({}),
        )  # fmt: skip

    def start(self, number: int) -> int:
        place = self._place
        order = {
            "arguments": [str(place.file), place.storage, str(place.runs), "{}"],
            "output": str(place.folder / f"worker-{number}.out"),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def run_chaos(
    place: Place,
    *,
    workers: int = 8,
    trials: int = 200,
    every_s: float = 0.5,
    server: PostgresServer | None = None,
    seed: int = 0,
    limit_s: float = 1800.0,
) -> ChaosFigures:
    """Run a study under fire until it is finished; raise if an invariant is broken."""
    draw = random.Random(seed)
    place.write(trials=trials, folds=3, epochs=4, pruner="hyperband", startup=10)
    place.timings |= {"lease": 6.0, "beat": 1.0, "poll": 0.3, "view": 5.0}
    figures = ChaosFigures("postgresql" if server else "sqlite", workers, trials, seed)
    crashes = [trials // 4, trials // 2, 3 * trials // 4] if server else []
    nursery = Nursery(place)
    began = time.monotonic()
    fire = Fire(nursery, workers, draw, every_s, figures)
    fire.start()
    try:
        while (found := _look(place)) is None or found.state != "finished":
            assert time.monotonic() - began < limit_s, f"not finished in {limit_s:.0f} s: {found}"
            assert fire.is_alive(), "nobody is killed any more"
            time.sleep(every_s)
            finished = found.trials.finished if found is not None else 0
            if server is not None and crashes and finished >= crashes[0]:
                crashes.pop(0)
                server.crash()
                figures.server_crashes += 1
                time.sleep(2.0)
                server.start()
        fire.cease()
        figures.seconds = round(time.monotonic() - began, 1)
        kills = figures.kills_supervisor + figures.kills_trainer
        figures.kill_every_s = round(figures.seconds / kills, 3) if kills else 0.0
        _wait_for_all(fire.team, limit_s)
    finally:
        fire.cease()
        for pid in fire.team.values():
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        nursery.close()
    _measure(place, figures)
    check(place.storage, place.runs, place.name, target=trials)
    return figures


class Fire(threading.Thread):
    """Kills a process at fixed moments, whatever else takes its time, and replaces the dead."""

    def __init__(
        self,
        nursery: Nursery,
        workers: int,
        draw: random.Random,
        every_s: float,
        figures: ChaosFigures,
    ) -> None:
        super().__init__(daemon=True, name="fire")
        self._nursery, self._draw, self._every_s = nursery, draw, every_s
        self._figures = figures
        self._ceased = threading.Event()
        self.team = {number: nursery.start(number) for number in range(workers)}

    def cease(self) -> None:
        self._ceased.set()
        self.join(10)

    def run(self) -> None:
        at = time.monotonic()
        while True:
            at += self._every_s
            if self._ceased.wait(max(0.0, at - time.monotonic())):
                return
            _kill_one(self.team, self._draw, self._figures)
            for number, pid in self.team.items():
                if not is_running(pid):
                    self.team[number] = self._nursery.start(number)


def _look(place: Place) -> StudyStatus | None:
    try:
        return status.read_study(place.storage, place.name)
    except Exception as error:
        if isinstance(error, StoreError) or "no study" in str(error):
            return None
        raise


def _kill_one(team: dict[int, int], draw: random.Random, figures: ChaosFigures) -> None:
    living = [pid for _, pid in sorted(team.items()) if is_running(pid)]
    if not living:
        return
    pid = draw.choice(living)
    trainers = children_of(pid)
    if trainers and draw.random() < 0.25:
        pid = trainers[0]
        figures.kills_trainer += 1
    else:
        figures.kills_supervisor += 1
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _wait_for_all(team: dict[int, int], limit_s: float) -> None:
    began = time.monotonic()
    while any(is_running(pid) for pid in team.values()):
        assert time.monotonic() - began < limit_s
        time.sleep(0.1)


def _measure(place: Place, figures: ChaosFigures) -> None:
    found = status.read_study(place.storage, place.name)
    figures.finished = found.trials.finished
    figures.failed = found.trials.failed
    figures.lost = found.trials.running + found.trials.waiting
    figures.attempts = found.adopted + found.trials.finished + found.trials.failed
    again = trained_twice(place.runs / place.name)
    figures.epochs, figures.epochs_again = again["epochs"], again["epochs_again"]
    figures.folds_again = again["folds_again"]
    for partial in place.runs.rglob("*.partial"):
        partial.unlink()  # of processes that were cut off in the middle of writing
