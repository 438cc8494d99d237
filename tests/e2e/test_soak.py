"""Many trials in a row: what a worker holds does not grow with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from invariants import check
from processes import Place

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

TRIALS, WARM = 300, 100
GROWTH_BYTES = 16 * 2**20
"""Optuna keeps each trial, a few kilobytes of it; a leak of a trial's own things would be more."""


def held(pid: int) -> tuple[int, int, int]:
    """(open files, threads, bytes in memory) of a process."""
    process = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    files = len(list((process / "fd").iterdir()))
    return files, int(status["Threads"]), 1024 * int(status["VmRSS"].split()[0])


def test_a_worker_and_its_trainer_do_not_grow_with_their_trials(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=TRIALS, folds=2, epochs=1, pruner="hyperband", sampler="tpe")
    worker = place.start(env={"SYNTHETIC_EPOCH_S": "0"})
    worker.wait_for("TrialEnded", timeout=1200, count=WARM)
    processes = [worker.pid, *worker.trainers()]
    assert len(processes) == 2
    before = [held(pid) for pid in processes]
    worker.wait_for("TrialEnded", timeout=2400, count=TRIALS - 10)
    after = [held(pid) for pid in processes]
    assert worker.end(600) == 0, worker.text[-2000:]
    for (files, threads, memory), (files_then, threads_then, memory_then) in zip(
        before, after, strict=True
    ):
        assert abs(files_then - files) <= 2
        assert threads_then == threads
        assert memory_then - memory < GROWTH_BYTES
    check(place.storage, place.runs, place.name, target=TRIALS)
