"""A trainer process: nothing that it writes can stop it (trap 34), and the log has what it logs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from desk import spec_of
from processes import is_running, wait_until

from criteria_cli.hpo.trainer_process import Launch, TrainerProcess
from criteria_cli.study.messages import Failed, Ready, Said, TrainerSetup
from criteria_cli.study.trial import Progress

MIB = 2**20
TALKATIVE = f"""
import json, logging, os, subprocess, sys
from criteria_cli.study.messages import Ready, Said, answer_to_json
from criteria_cli.study.trial import Progress

os.write(1, b"o" * {MIB})
os.write(2, b"e" * {MIB})
subprocess.run([sys.executable, "-c", "print('c' * {MIB})"], check=True)
with os.fdopen(int(sys.argv[1]), "w") as answers:
    for step in range(3000):
        answers.write(json.dumps(answer_to_json(Said(Progress(1, 1, "train", step, 3000)))) + "\\n")
    answers.write(json.dumps(answer_to_json(Ready("d", "fp32", 1, "0"))) + "\\n")
    answers.flush()
    sys.stdin.readline()
"""


LOGGING = """
import logging, sys
from criteria_cli.errors import MachineError
from criteria_cli.training.serve import serve

def make(setup, learn):
    logging.getLogger("criteria_cli.training.tf32").info("TF32 is %s", "off")
    logging.getLogger("somebody.else").info("TF32 is unknown")
    raise MachineError("that was all")

serve(make, sys.argv[1:])
"""

FAILING = """
import json, sys, threading
from criteria_cli.errors import MachineError
from criteria_cli.training.serve import serve

def make(setup, learn):
    if THREAD:
        thread = threading.Thread(target=json.loads, args=("Qxzw",))
        thread.start()
        thread.join()
        raise MachineError("that was all")
    json.loads("Qxzw")

serve(make, sys.argv[1:])
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], TrainerProcess]]:
    started: list[TrainerProcess] = []

    def process(program: str) -> TrainerProcess:
        command = [sys.executable, "-c", program]
        started.append(TrainerProcess(Launch(command, os.environ, tmp_path / "hpo.log", 60)))
        return started[-1]

    yield process
    for one in started:
        one.close(grace_s=10)


def test_a_trainer_that_writes_more_than_a_pipe_holds_is_not_blocked(
    start: Callable[[str], TrainerProcess], tmp_path: Path
) -> None:
    trainer = start(TALKATIVE)
    # nobody has asked for an answer yet, and 3,000 of them are more than 64 KiB
    log = tmp_path / "hpo.log"
    wait_until(lambda: log.stat().st_size > 3 * MIB, 60, "the output of trainer and child")
    steps = []
    while not isinstance(answer := trainer.hear(60), Ready):
        assert isinstance(answer, Said)
        assert isinstance(answer.event, Progress)
        steps.append(answer.event.step)
    assert steps == list(range(3000))
    trainer.close(grace_s=60)
    assert not is_running(trainer.pid)


def test_what_a_trainer_logs_is_in_the_log(
    start: Callable[[str], TrainerProcess], tmp_path: Path
) -> None:
    """Trap 37: what is in effect on a card, read back, must be where a person can read it."""
    trainer = start(LOGGING)
    trainer.send(TrainerSetup(spec_of(), tmp_path, tmp_path, "cpu", 1))
    assert isinstance(trainer.hear(60), Failed)
    log = (tmp_path / "hpo.log").read_text()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z INFO MainThread TF32 is off\n", log)


@pytest.mark.parametrize("thread", [False, True])
def test_an_error_in_the_log_has_no_path_and_no_value(
    start: Callable[[str], TrainerProcess], tmp_path: Path, thread: bool
) -> None:
    trainer = start(FAILING.replace("THREAD", str(thread)))
    trainer.send(TrainerSetup(spec_of(), tmp_path, tmp_path, "cpu", 1))
    assert isinstance(trainer.hear(60), Failed)
    lines = (tmp_path / "hpo.log").read_text().splitlines()
    assert lines[0] == "traceback, the innermost call last:"
    assert [line for line in lines if re.fullmatch(r"  decoder.py:\d+ in raw_decode", line)]
    assert "JSONDecodeError" in lines
    assert not [line for line in lines if "/usr" in line or "Qxzw" in line]
