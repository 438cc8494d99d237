"""How long a command line takes to answer, beside those of optuna, ray and wandb.

    python benchmarks/startup.py [--peers VENV] [--trials 10000] [--rounds 15]

`--help` of each, and what each says of a study: `criteria status NAME` and three of optuna's
commands on the same SQLite file (criteria keeps its trials in Optuna's tables). ray and wandb are
no dependencies: give a virtual environment that holds them, made outside this repository by
`python3 -m venv VENV && VENV/bin/pip install ray wandb`; what is missing there is left out with a
word. The commands take turns, so that a busy machine slows all of them alike; reported are medians
of wall time and of processor time, and ratios of the medians to those of criteria. A first round,
which fills the caches of disk and bytecode, is not counted.

Result: `results/startup.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))

from desk import spec_of
from filler import fill

OURS = Path(sys.executable).parent
QUIET = {"RAY_DEDUP_LOGS": "0", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}


def run(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of a command that must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(
        command,
        cwd=folder,
        env={**kept, **QUIET, "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(commands: dict[str, list[str]], rounds: int, folder: Path) -> dict[str, Any]:
    """Medians of each command, and how many times those of the first command they are."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            found = run(command, folder)
            if number:
                times[name].append(found)
    medians = {
        name: [statistics.median(pair[part] for pair in found) for part in (0, 1)]
        for name, found in times.items()
    }
    first = next(iter(medians.values()))
    rows = {
        name: {
            "wall_s": round(wall, 3),
            "processor_s": round(processor, 3),
            "wall_ratio": round(wall / first[0], 2),
            "processor_ratio": round(processor / first[1], 2),
        }
        for name, (wall, processor) in medians.items()
    }
    for name, row in rows.items():
        print(f"{name:<24} {row['wall_s']:7.3f} s wall {row['processor_s']:7.3f} s processor"
              f" {row['wall_ratio']:7.2f} x")  # fmt: skip
    return rows


def peers(venv: Path | None) -> dict[str, Path]:
    """The command lines of other tools that are there."""
    found = {"optuna": OURS / "optuna"}
    for name in ("ray", "wandb"):
        path = venv / "bin" / name if venv is not None else Path(name)
        if path.is_file():
            found[name] = path.absolute()
        else:
            print(f"{name}: not there, left out (see --peers)")
    return found


def version_of(name: str, script: Path) -> str:
    if name == "optuna":
        return version(name)
    code = f"from importlib.metadata import version; print(version({name!r}))"
    python = script.with_name("python")
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, metavar="VENV")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    others = peers(options.peers)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        storage = f"sqlite:///{folder / 'criteria.db'}"
        fill(storage, spec_of(budget={"trials": 2 * options.trials}), options.trials)
        helps = {"criteria --help": [str(OURS / "criteria"), "--help"]}
        helps |= {f"{name} --help": [str(script), "--help"] for name, script in others.items()}
        optuna = [str(others["optuna"])]
        there = ["--storage", storage]
        looks = {
            "criteria status s": [str(OURS / "criteria"), "status", "s"],
            "optuna studies": [*optuna, "studies", *there],
            "optuna best-trial": [*optuna, "best-trial", "--study-name", "s", *there],
            "optuna trials": [*optuna, "trials", "--study-name", "s", *there],
        }
        result = {
            "schema": "criteria.benchmark.startup/1",
            "command": "benchmarks/startup.py",
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "versions": {
                "python": platform.python_version(),
                "criteria": version("criteria"),
                **{name: version_of(name, script) for name, script in others.items()},
            },
            "load_average": round(os.getloadavg()[0], 1),
            "rounds": options.rounds,
            "trials": options.trials,
            "help": measured(helps, options.rounds, folder),
            "study": measured(looks, max(2, options.rounds // 5), folder),
        }
    path = HERE / "results" / "startup.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(path.relative_to(HERE.parent))


if __name__ == "__main__":
    main()
