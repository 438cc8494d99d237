"""Workers that ended on this machine are known at once; nothing is said of other machines."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

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
