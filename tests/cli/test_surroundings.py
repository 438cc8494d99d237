"""What lies around a command: its streams, its signals, its log and files that nobody expects."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
STAND_IN = {
    "CRITERIA_TESTING": "1",
    "CRITERIA_TRAINER": str(SUPPORT / "synthetic_trainer.py"),
    "PYTHONPATH": str(SUPPORT),
}


@pytest.mark.parametrize("place", ["trainer.start", "trainer.order"])
def test_the_log_of_a_trainer_that_failed_names_no_home(
    place: str, tmp_path: Path, run_in: Run
) -> None:
    env = {**STAND_IN, "CRITERIA_FAULTS": f"{place}:raise"}
    ran = run_in(tmp_path, "hpo", "demo", "--trials", "1", env=env)
    log = (tmp_path / "runs" / "demo" / "hpo.log").read_text()
    assert ran.code == 1
    assert "criteria_cli/training/serve.py:" in log
    assert " in serve\n" in log
    assert "\nInjected\n" in log
    assert 'File "' not in log
    assert str(ROOT) not in log


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, run_in: Run) -> Path:
    """A folder where the demo was searched."""
    folder = tmp_path_factory.mktemp("demo")
    ran = run_in(folder, "hpo", "demo", "--trials", "3", env=STAND_IN)
    assert ran.code == 0, ran.err
    return folder


def shell(folder: Path, line: str, **more: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of `criteria ...` with these redirections."""
    program = f"{shlex.quote(sys.executable)} -m criteria_cli"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CRITERIA_")}
    return subprocess.run(
        ["sh", "-c", line.replace("criteria", program, 1)],
        cwd=folder,
        env={**kept, **STAND_IN, **more},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("status demo >&-", 0),
        ("status demo --json >&-", 0),
        ("status demo 2>&-", 0),
        ("status nowhere >&- 2>&-", 2),
        ("--version >&-", 0),
        ("hpo --help <&- >&- 2>&-", 0),
        ("hpo demo --trials 4 <&- >&- 2>&-", 0),
        ("report demo --out y.html >&-", 0),
        ("report demo --out y.html <&- >&- 2>&-", 0),
    ],
)
def test_a_stream_that_is_closed_changes_no_exit_code(
    line: str, code: int, demo: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo, tmp_path, dirs_exist_ok=True)
    ran = shell(tmp_path, f"criteria {line}")
    assert ran.returncode == code, ran.stderr
    assert (ran.stdout != "") == (line == "status demo 2>&-")
    assert "error" not in ran.stderr
    if line.startswith("report"):
        assert (tmp_path / "y.html").stat().st_size > 1000


@pytest.mark.parametrize(
    ("more", "settings", "message"),
    [
        ("a=" + "[" * 5000 + "]" * 5000, [], "`x.toml` is nested too deeply"),
        (".".join("a" * 5000) + "=1", [], "`x.toml` is nested too deeply"),
        ("[training]\nepochs=1" + "0" * 5000, [], "`x.toml` holds a number that is too long"),
        (
            "[validation]\nfolds=1" + "0" * 21,
            [],
            "`x.toml`: `validation.folds` must be at most 1000, not 1" + "0" * 21,
        ),
        (
            "",
            ["--set", "training.epochs=" + "[" * 5000 + "]" * 5000],
            "`--set training.epochs`: the value is nested too deeply",
        ),
        (
            "",
            ["--set", "training.epochs=1" + "0" * 5000],
            "`--set training.epochs`: the value holds a number that is too long",
        ),
    ],
    ids=["lists", "tables", "digits", "folds", "set-lists", "set-digits"],
)
def test_a_study_file_of_any_size_gets_one_line(
    more: str, settings: list[str], message: str, tmp_path: Path, run_in: Run
) -> None:
    head = 'schema = 1\nname = "x"\n[data]\nformat = "synthetic"\n'
    top = more if not more.startswith("[") else ""
    (tmp_path / "x.toml").write_text(f"{top}\n{head}{'' if top else more}\n")
    ran = run_in(tmp_path, "hpo", "x.toml", "--dry-run", *settings)
    assert (ran.code, ran.err) == (2, f"error: {message}\n")


@pytest.mark.parametrize("command", ["status", "hpo demo", "report demo", "storage upgrade"])
def test_a_store_whose_name_is_no_text(command: str, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.db")
    given = shell(tmp_path, f"criteria {command} --storage sqlite:///{name}")
    folder = tmp_path / name
    folder.mkdir()
    inherited = shell(folder, f"criteria {command}")
    for ran in (given, inherited):
        assert ran.returncode == 2
        line, hint = ran.stderr.splitlines()
        assert line == "error: the storage URL, or the folder it starts from, is not UTF-8 text"
        assert hint.startswith("  hint: ")
    assert [path.name for path in tmp_path.rglob("*")] == [name]


SCRIPT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["criteria"]
STARTS = {
    "module": ["-m", "criteria_cli"],
    "script": [
        "-c",
        "import sys; from {} import {} as main; sys.exit(main())".format(*SCRIPT.split(":")),
    ],
}


@pytest.mark.parametrize("start", STARTS)
def test_ctrl_c_while_the_command_line_loads_ends_without_a_word(
    start: str, tmp_path: Path
) -> None:
    (tmp_path / "typer.py").write_text(
        "import signal\nprint('loading', flush=True)\nsignal.pause()\n"
    )
    process = subprocess.Popen(
        [sys.executable, *STARTS[start], "status"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")


def test_a_model_that_asks_for_more_layers_than_memory_holds(tmp_path: Path, run_in: Run) -> None:
    config = {"model_type": "bert", "num_hidden_layers": 10**9}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    ran = run_in(tmp_path, "train", "demo", "--set", 'model.name="./m"', timeout=60)
    assert ran.code == 2
    assert ran.err.splitlines()[-1] == (
        "error: config.json of model `./m`: `num_hidden_layers` is 1000000000, the most is 1000"
    )
