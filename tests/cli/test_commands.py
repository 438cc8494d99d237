"""Commands from the outside: streams, exit codes, files and what a terminal shows.

Searches run the real supervisor with a stand-in for the trainer, which takes milliseconds an epoch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from terminals import Terminal, without_codes

from criteria_cli.cli.app import with_watch_value
from criteria_cli.cli.folders import nothing_left_if_refused
from criteria_cli.errors import MachineError
from criteria_cli.study.files import load_definition
from criteria_cli.study.frames import bare_traceback

SUPPORT = Path(__file__).parents[1] / "support"
STAND_IN = {
    "CRITERIA_TESTING": "1",
    "CRITERIA_TRAINER": str(SUPPORT / "synthetic_trainer.py"),
    "PYTHONPATH": str(SUPPORT),
}
STUDY = """schema = 1
name = "{name}"
[data]
format = "synthetic"
posts = 30
[validation]
folds = 3
[training]
epochs = 3
[search]
learning_rate = {{ low = 1e-6, high = 1e-3, log = true }}
batch_size = {{ choices = [16, 32] }}
[pruner]
type = "{pruner}"
startup_trials = 2
[budget]
trials = {trials}
"""
Run = Callable[..., Any]


def write(folder: Path, name: str = "s", pruner: str = "hyperband", trials: int = 6) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(STUDY.format(name=name, pruner=pruner, trials=trials))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, run_in: Run) -> tuple[Path, Any]:
    """A folder with a finished study, and what the search said into a pipe."""
    folder = tmp_path_factory.mktemp("finished")
    write(folder)
    ran = run_in(folder, "hpo", "s.toml", "--device", "cpu", env=STAND_IN)
    assert ran.code == 0, ran.err
    return folder, ran


@pytest.fixture
def study(finished: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of the finished study's folder."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


# -- pipes -----------------------------------------------------------------------------------


def test_a_search_in_a_pipe(finished: tuple[Path, Any]) -> None:
    _, ran = finished
    assert ran.out == ""
    assert "\r" not in ran.err
    assert "\x1b" not in ran.err
    lines = ran.err.splitlines()
    events = [line for line in lines if re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line)]
    starting, ready, *_ = (line.split(" ", 1)[1] for line in events if " worker " in line)
    assert starting == "worker starting device=cpu"
    assert ready.startswith("worker ready device=cpu ")
    assert sum(" trial n=" in line and " start " in line for line in events) == 6
    pruned = [line for line in events if " pruned fold=" in line]
    assert pruned
    assert all(re.search(r": hyperband < 0\.\d{4}$", line) for line in pruned)
    assert "A.1" in ran.err
    assert re.search(r" (\d+) of \1 evidence sentences found in their posts", ran.err)
    assert lines[-3].startswith("s: 6 of 6 trials, best f1 0.")
    assert "yes to every pair 0." in lines[-3]
    assert lines[-2] == "store sqlite:///criteria.db, log runs/s/hpo.log"
    assert lines[-1] == "next: criteria train s.toml --from best"


def test_a_device_that_is_not_there_is_said_before_any_table(tmp_path: Path, run_in: Run) -> None:
    write(tmp_path)
    ran = run_in(tmp_path, "hpo", "s.toml", "--device", "cuda:7", env=STAND_IN)
    assert ran.code == 3
    (line, *_hint) = ran.err.splitlines()
    assert line.startswith("error: GPU 7 does not exist")
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


def test_a_finished_study_is_done_at_once(study: Path, run_in: Run) -> None:
    again = run_in(study, "hpo", "s.toml", "--device", "cpu", "--json", env=STAND_IN)
    assert again.code == 0
    document = json.loads(again.out)
    assert document["schema"] == "criteria.status/1"
    assert document["study"]["trials"]["complete"] + document["study"]["trials"]["pruned"] == 6
    assert " start " not in again.err


def test_a_stopped_trial_is_confirmed(study: Path, run_in: Run) -> None:
    ran = run_in(study, "hpo", "s.toml", "--device", "cpu", "--confirm", "1", env=STAND_IN)
    assert ran.code == 0, ran.err
    assert re.search(r"trial n=6 start confirms=\d folds_done=[12] ", ran.err)
    assert ran.err.splitlines()[-3].startswith("s: 6 of 6 trials, 1 confirmed, best f1 0.")
    shown = run_in(study, "status", "s").out
    assert "CONFIRM  1 of 1 stopped trials finished\n" in shown
    assert re.search(r"folds run \d+ of 18, epochs \d+ of 54, \d+% saved", shown)


def test_status_in_a_pipe(study: Path, run_in: Run) -> None:
    every = run_in(study, "status")
    assert every.code == 0
    assert re.search(r"^s +finished +6/6 ", every.out, re.MULTILINE)
    one = run_in(study, "status", "s")
    assert "NEXT     criteria train s.toml --from best\n" in one.out
    assert one.modules <= {"sqlalchemy", "pydantic"}
    document = json.loads(run_in(study, "status", "--json").out)
    assert [item["name"] for item in document["studies"]] == ["s"]


def test_status_check_ends_with_5_when_somebody_must_act(tmp_path: Path, run_in: Run) -> None:
    write(tmp_path, trials=50)
    stopped = run_in(
        tmp_path, "hpo", "s.toml", "--device", "cpu", "--hours", "0.0005", env=STAND_IN
    )
    assert stopped.code == 0
    assert "the time is over" in stopped.err
    assert run_in(tmp_path, "status").code == 0
    checked = run_in(tmp_path, "status", "s", "--check")
    assert checked.code == 5
    assert "stalled" in checked.out


def test_looking_changes_nothing(study: Path, run_in: Run) -> None:
    before = (study / "criteria.db").read_bytes()
    for arguments in (["status"], ["status", "s", "--json"], ["report", "s"], ["doctor"]):
        assert run_in(study, *arguments).code == 0
    assert (study / "criteria.db").read_bytes() == before


def test_a_closed_pipe_ends_silently(study: Path) -> None:
    done = subprocess.run(
        [f"{sys.executable} -m criteria_cli status s --json | head -1"],
        shell=True,
        cwd=study,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_watching_into_a_pipe_writes_a_block_per_look(study: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "criteria_cli", "status", "s", "--watch=1", "--json"],
        cwd=study,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    looks = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert [look["study"]["name"] for look in looks] == ["s", "s"]


def test_a_dry_run_writes_nothing_and_names_each_source(tmp_path: Path, run_in: Run) -> None:
    write(tmp_path)
    ran = run_in(tmp_path, "hpo", "s.toml", "--trials", "9", "--set", "model.max_length=64",
                 "--dry-run")  # fmt: skip
    assert ran.code == 0
    assert re.search(r"^budget.trials +9 +--trials$", ran.out, re.MULTILINE)
    assert re.search(r"^model.max_length +64 +--set$", ran.out, re.MULTILINE)
    assert re.search(r"^validation.folds +3 +s.toml$", ran.out, re.MULTILINE)
    assert re.search(r"^validation.seed +42 +default$", ran.out, re.MULTILINE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.toml"]


def test_a_dry_run_for_a_program(study: Path, run_in: Run) -> None:
    for arguments in (["hpo", "s.toml"], ["train", "s.toml", "--from", "best"]):
        ran = run_in(study, *arguments, "--dry-run", "--json")
        assert ran.code == 0, ran.err
        plan = json.loads(ran.out)
        assert (plan["schema"], plan["name"], plan["data"]["pairs"]) == (
            "criteria.plan/1",
            "s",
            270,
        )
        assert sum(fold["positives"] for fold in plan["data"]["folds"]) == plan["data"]["positives"]
        assert plan["settings"]["validation.folds"]["value"] == 3
    assert (
        plan["settings"]["training.learning_rate"]["from"] == f"trial {plan['trains'].split()[1]}"
    )


def test_a_trial_is_trained_as_its_study_ran_it(study: Path, run_in: Run) -> None:
    """Trap 14: the file says something else by now."""
    path = study / "s.toml"
    path.write_text(path.read_text().replace("epochs = 3", "epochs = 99"))
    ran = run_in(study, "train", "s.toml", "--from", "best", "--set", "model.max_length=64",
                 "--dry-run")  # fmt: skip
    assert ran.code == 0, ran.err
    assert re.search(r"^trains trial \d of study s, model to ", ran.out, re.MULTILINE)
    assert re.search(r"^training.epochs +3 +study s$", ran.out, re.MULTILINE)
    assert re.search(r"^training.learning_rate +\S+ +trial \d$", ran.out, re.MULTILINE)
    assert re.search(r"^model.max_length +64 +--set$", ran.out, re.MULTILINE)
    own = run_in(study, "train", "s.toml", "--dry-run")
    assert re.search(r"^training.epochs +99 +s.toml$", own.out, re.MULTILINE)


def test_a_setting_that_every_trial_samples_is_not_ignored(tmp_path: Path, run_in: Run) -> None:
    write(tmp_path)
    ran = run_in(tmp_path, "hpo", "s.toml", "--set", "training.batch_size=8")
    assert ran.code == 2
    assert "`--set` sets `training.batch_size`, but every trial samples it" in ran.err
    assert "--set 'search.batch_size={choices=[VALUE]}'" in ran.err


def test_a_study_that_searches_nothing_is_said(tmp_path: Path, run_in: Run) -> None:
    (tmp_path / "s.toml").write_text(
        'schema = 1\nname = "s"\n[data]\nformat = "synthetic"\nposts = 20\n'
        '[model]\nname = "builtin:tiny-deberta-v2"\nmax_length = 64\n'
    )
    ran = run_in(tmp_path, "hpo", "s.toml", "--trials", "4", "--dry-run")
    assert ran.code == 0
    assert "warning: nothing is searched, 4 trials would be alike" in ran.err
    assert (
        "nothing is searched"
        not in run_in(tmp_path, "hpo", "s.toml", "--trials", "1", "--dry-run").err
    )


def test_init_writes_a_study_file_that_loads(tmp_path: Path, run_in: Run) -> None:
    ran = run_in(tmp_path, "init", "mine.toml", "--like", "pc_ce")
    assert (ran.code, ran.out) == (0, "mine.toml\n")
    definition = load_definition(str(tmp_path / "mine.toml"), environ={})
    assert definition.spec.name == "mine"
    assert "criteria hpo mine.toml" in (tmp_path / "mine.toml").read_text()
    assert run_in(tmp_path, "init", "mine.toml").code == 2
    ran = run_in(tmp_path, "init", "nowhere/mine.toml")
    assert ran.code == 2
    assert "error: the folder of `nowhere/mine.toml` does not exist" in ran.err


def test_doctor_tells_without_a_store(tmp_path: Path, run_in: Run) -> None:
    ran = run_in(tmp_path, "doctor", "--json", env={"HOME": str(tmp_path)})
    assert ran.code == 0
    facts = json.loads(ran.out)
    assert facts["packages"]["torch"]
    assert facts["store"]["error"]
    assert str(tmp_path) not in ran.out
    assert "torch" not in ran.modules


def test_errors_as_json_are_the_last_line(tmp_path: Path, run_in: Run) -> None:
    ran = run_in(tmp_path, "hpo", "nowhere.toml", "--json")
    assert ran.code == 2
    last = json.loads(ran.err.splitlines()[-1])
    assert last["schema"] == "criteria.error/1"
    assert last["code"] == "study.missing"


def test_debug_shows_frames_and_no_values(tmp_path: Path, run_in: Run) -> None:
    ran = run_in(tmp_path, "hpo", "nowhere.toml", "--debug")
    assert "criteria_cli/study/files.py:" in ran.err
    assert "UsageError: study file" in ran.err
    secret = "Qxzw felt low"
    try:
        int(secret)
    except ValueError as error:
        told = bare_traceback(error)
    assert told.endswith("ValueError\n")
    assert secret not in told


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "s", "{}"), ("hpo", "{}"), ("{}",), ("train", "demo", "--set", "{}", "--json"),
        ("predict", "m", "{}"), ("hpo", "demo", "--device", "{}", "--debug"), ("init", "{}"),
    ],
)  # fmt: skip
def test_a_url_in_the_wrong_place_gives_no_password_away(
    arguments: tuple[str, ...], tmp_path: Path, run_in: Run
) -> None:
    typed = [each.format("postgresql://u:s3cr:tPW@db1/hpo") for each in arguments]
    ran = run_in(tmp_path, *typed)
    assert ran.code == 2
    assert "s3cr" not in ran.out + ran.err
    assert "tPW" not in ran.out + ran.err


def test_a_name_too_long_for_a_file(tmp_path: Path, run_in: Run) -> None:
    ran = run_in(tmp_path, "hpo", "x" * 300)
    assert (ran.code, ran.err) == (2, "error: a file name is too long\n")


@pytest.mark.parametrize("command", ["status", "doctor", "hpo"])
def test_a_working_directory_that_was_removed(command: str, tmp_path: Path, run_in: Run) -> None:
    gone = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')"
    ran = run_in(tmp_path, command, *(["demo"] if command == "hpo" else []), prelude=gone)
    assert ran.code == 2
    assert "the working directory was removed" in ran.err


def test_a_user_without_a_home(tmp_path: Path, run_in: Run) -> None:
    nobody = (
        "import os, pathlib\n"
        "del os.environ['HOME']\n"
        "import pwd\n"
        "def unknown(_): raise KeyError\n"
        "pwd.getpwuid = unknown"
    )
    ran = run_in(tmp_path, "status", prelude=nobody)
    assert ran.code == 4
    assert "`criteria.db` does not exist" in ran.err


def test_watch_needs_no_value() -> None:
    assert with_watch_value(["status", "--watch"]) == ["status", "--watch=2"]
    assert with_watch_value(["status", "--watch", "5", "s"]) == ["status", "--watch=5", "s"]
    assert with_watch_value(["status", "--watch", "s"]) == ["status", "--watch=2", "s"]
    assert with_watch_value(["status", "--watch=3"]) == ["status", "--watch=3"]


def test_completion_offers_studies_and_settings(study: Path) -> None:
    def offered(line: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "criteria_cli"],
            cwd=study,
            env={
                **os.environ,
                "_CRITERIA_COMPLETE": "complete_bash",
                "COMP_WORDS": line,
                "COMP_CWORD": str(len(line.split())),
            },
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    assert "demo" in offered("criteria hpo ")
    assert "s" in offered("criteria status ").split()


# -- terminals -------------------------------------------------------------------------------


Open = Callable[..., Terminal]


@pytest.fixture
def terminal() -> Iterator[Open]:
    """Opens terminals: `terminal(folder, "status", columns=80)`."""
    opened: list[Terminal] = []

    def make(*arguments: Any, env: Mapping[str, str] | None = None, **options: Any) -> Terminal:
        opened.append(Terminal(*arguments, env={**STAND_IN, **(env or {})}, **options))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.mark.parametrize("columns", [80, 120])
def test_a_search_in_a_terminal(tmp_path: Path, terminal: Open, columns: int) -> None:
    write(tmp_path, pruner="none", trials=4)
    slow = {"SYNTHETIC_EPOCH_S": "0.2"}  # a trial outlasts several frames
    opened = terminal(tmp_path, "hpo", "s.toml", "--device", "cpu", columns=columns, env=slow)
    opened.until(r"trial \d +fold \d/3")
    assert opened.end() == 0
    assert "study  [" in without_codes(opened.drawn)
    # a frame is drawn by moving up over the last one; no line of one is wider than the window
    for piece in re.split(r"[\r\n]+", without_codes(opened.drawn)):
        assert len(piece) <= columns or not piece.startswith(("study", "cpu", "criteria hpo"))
    # what stays is three lines below the data's
    after = without_codes(opened.drawn).replace("\r", "").rstrip().splitlines()
    assert after[-1] == "next: criteria train s.toml --from best"
    assert opened.drawn.count("\x1b[?25h") >= 1, "the cursor is given back"


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, terminal: Open) -> None:
    write(tmp_path, pruner="none", trials=500)
    opened = terminal(tmp_path, "hpo", "s.toml", "--device", "cpu")
    opened.until(r"trial 1")
    os.kill(opened.process.pid, signal.SIGINT)
    assert opened.end() == 75
    assert "stopped" in without_codes(opened.drawn)


def test_a_second_ctrl_c_says_what_stays(tmp_path: Path, terminal: Open) -> None:
    write(tmp_path, pruner="none", trials=500)
    opened = terminal(
        tmp_path, "hpo", "s.toml", "--device", "cpu", env={"SYNTHETIC_EPOCH_S": "2"}
    )  # an epoch outlasts the two keys
    opened.until(r"epoch +1/")
    os.kill(opened.process.pid, signal.SIGINT)
    opened.until("signal SIGINT: saving")
    os.kill(opened.process.pid, signal.SIGINT)
    assert opened.end() == 130
    said = " ".join(without_codes(opened.drawn).split())
    assert said.endswith("what was saved before stays hint: run the same command again to go on")


def test_a_terminal_that_is_closed_stops_the_search_like_any_signal(
    tmp_path: Path, terminal: Open
) -> None:
    write(tmp_path, pruner="none", trials=500)
    opened = terminal(tmp_path, "hpo", "s.toml", "--device", "cpu")
    opened.until(r"trial 1")
    os.close(opened.main)
    opened.main = os.open(os.devnull, os.O_RDONLY)
    os.kill(opened.process.pid, signal.SIGHUP)
    assert opened.process.wait(60) == 75
    with sqlite3.connect(tmp_path / "criteria.db") as connection:
        (running,) = connection.execute(
            "select count(*) from criteria_attempts where outcome is null"
        ).fetchone()
    connection.close()
    assert running == 0, "the trial was given back"


def test_a_reader_that_leaves_does_not_stop_a_search(tmp_path: Path) -> None:
    write(tmp_path, pruner="none", trials=3)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CRITERIA_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "criteria_cli", "hpo", "s.toml", "--device", "cpu"],
        cwd=tmp_path,
        env={**kept, **STAND_IN},
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    try:
        assert process.wait(120) == 0
    finally:
        process.kill()


def test_status_in_a_terminal_fits_it(study: Path, terminal: Open) -> None:
    for columns in (80, 120):
        opened = terminal(study, "status", "s", columns=columns)
        assert opened.end() == 0
        lines = without_codes(opened.drawn).replace("\r", "").splitlines()
        assert all(len(line) <= columns for line in lines)


def test_watching_redraws_in_place(study: Path, terminal: Open) -> None:
    opened = terminal(study, "status", "s", "--watch=1")
    opened.until("\x1b\\[\\d+A")
    os.kill(opened.process.pid, signal.SIGINT)
    assert opened.end() == 0
    head = without_codes(opened.drawn).split()
    assert head[:4] == ["s", "finished,", "day", "1"]
    assert re.fullmatch(r"\d\d:\d\d:\d\dZ", head[4]), "nothing is cut at the edge"


def test_a_refused_command_takes_no_folder_from_a_living_worker(tmp_path: Path) -> None:
    busy = tmp_path / "runs" / "s" / "trial-0" / ".attempt-0-1"
    busy.mkdir(parents=True)
    with pytest.raises(MachineError), nothing_left_if_refused(tmp_path / "runs" / "s"):
        raise MachineError("no")
    assert busy.is_dir()
    made = tmp_path / "other" / "s" / "cache"

    def refused() -> None:
        made.mkdir(parents=True)
        raise MachineError("no")

    with pytest.raises(MachineError), nothing_left_if_refused(made.parent):
        refused()
    assert not (tmp_path / "other").exists()
