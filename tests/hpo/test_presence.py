"""Workers that ended on this machine are known at once; nothing is said of other machines."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import wait_until

from criteria_cli.hpo import presence
from criteria_cli.hpo.presence import Presence, is_dead

HOLDER = """
import sys
from pathlib import Path
from criteria_cli.hpo.presence import Presence
held = Presence(Path(sys.argv[1]), "w1")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_worker_is_dead_at_once_and_a_living_one_is_not(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"held\n"
        assert not is_dead(tmp_path, "w1")
        worker.kill()
    assert is_dead(tmp_path, "w1")


WITH_A_TRAINER = """
import os, sys
from pathlib import Path
from criteria_cli.hpo.presence import Presence
from criteria_cli.hpo.trainer_process import Launch, TrainerProcess
held = Presence(Path(sys.argv[1]), "w1")
launch = Launch([sys.executable, "-c", "import time; time.sleep(600)"], os.environ,
                Path(sys.argv[1]) / "log", 60)
print(TrainerProcess(launch, holds=held.descriptor).pid, flush=True)
sys.stdin.read()
"""


def test_a_killed_worker_is_dead_once_its_trainer_is(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WITH_A_TRAINER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdout is not None
        trainer = int(worker.stdout.readline())
        worker.kill()
    try:
        assert not is_dead(tmp_path, "w1")
    finally:
        os.kill(trainer, signal.SIGKILL)
    wait_until(lambda: is_dead(tmp_path, "w1"), what="the end of the trainer")


def test_a_worker_that_left_in_order_or_was_never_here_is_not_dead(tmp_path: Path) -> None:
    Presence(tmp_path, "w1").end()
    assert not is_dead(tmp_path, "w1")
    assert not is_dead(tmp_path, "w2")


def test_a_worker_of_another_machine_is_not_judged_by_a_lock_that_does_not_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a shared folder whose locks end at the machine, its file looks free from here."""
    with monkeypatch.context() as there:
        there.setattr(presence, "boot_id", lambda: "another-boot")
        there.setattr(fcntl, "flock", lambda *_: None)
        held = Presence(tmp_path, "w1")
        there.undo()
        assert not is_dead(tmp_path, "w1")
    held.end()


def test_a_folder_without_locks_does_not_stop_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    held = Presence(tmp_path, "w1")
    assert not is_dead(tmp_path, "w1")
    held.end()
