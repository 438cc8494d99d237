"""What the store costs: overhead of a trial beside bare Optuna, and `status` at 10,000 trials.

    python benchmarks/store.py [--quick] [--json FILE]

A trial here is: ask (two parameters, TPE), ten reports (five folds, an epoch and an end each) with
the pruner asked, tell. Ours adds leases, fold and epoch rows and decisions; bare Optuna is
`ask`, `report`, `should_prune`, `tell` with the same sampler and pruner on the same database. Both
take turns of a few trials, on copies of one study that has trials already; milliseconds are wall
time per trial over all workers together. PostgreSQL forces commits to the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve()
SUPPORT = HERE.parent.parent / "tests" / "support"
sys.path.insert(0, str(SUPPORT))

import optuna
from desk import Desk, spec_of
from filler import fill
from postgres_server import PostgresServer

from criteria_cli.hpo import status
from criteria_cli.hpo.pruning import optuna_pruner
from criteria_cli.hpo.url import read_url

FOLDS = 5
DURABLE = ("fsync=on", "full_page_writes=on")
SPEC = spec_of(
    validation={"folds": FOLDS},
    training={"epochs": 1},
    pruner={"type": "hyperband", "max_resource": FOLDS, "startup_trials": 0},
    sampler={"type": "tpe"},
    budget={"trials": 100_000},
)


# -- one worker ----------------------------------------------------------------------------------


def ours(storage: str) -> Callable[[], None]:
    desk = Desk(storage, SPEC)

    def trial() -> None:
        lease = desk.take().lease
        for fold in range(1, FOLDS + 1):
            desk.report(lease, fold, 0.5, epoch=1)
            desk.report(lease, fold, 0.5)
        desk.tell(lease, *[0.5] * FOLDS)

    return trial


def bare(storage: str) -> Callable[[], None]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = read_url(storage)
    connect = {"connect_args": {"timeout": 60}} if url.is_sqlite else {}
    backend = optuna.storages.RDBStorage(
        url.sqlalchemy.render_as_string(hide_password=False), engine_kwargs=connect
    )
    sampler = optuna.samplers.TPESampler(
        seed=os.getpid(), multivariate=True, constant_liar=True, n_startup_trials=10
    )
    study = optuna.load_study(
        study_name="s", storage=backend, sampler=sampler, pruner=optuna_pruner(SPEC)
    )

    def trial() -> None:
        asked = study.ask()
        asked.suggest_float("learning_rate", 1e-6, 1e-3, log=True)
        asked.suggest_categorical("batch_size", (16, 32))
        for step in range(1, 2 * FOLDS + 1):
            asked.report(0.5, step)
            asked.should_prune()
        study.tell(asked, 0.5)

    return trial


def work(side: str, storage: str) -> None:
    """A worker process: warm up, then do as many trials as each line says and answer with how many
    of them raised."""
    trial = {"ours": ours, "bare": bare}[side](storage)
    trial()
    print(0, flush=True)
    for line in sys.stdin:
        errors = 0
        for _ in range(int(line)):
            try:
                trial()
            except Exception:
                errors += 1
        print(errors, flush=True)


class Team:
    """Worker processes of one side on one store, warmed up."""

    def __init__(self, side: str, storage: str, workers: int) -> None:
        self.errors = 0
        self._children = [
            subprocess.Popen(
                [sys.executable, str(HERE), "--work", side, storage],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for _ in range(workers)
        ]  # fmt: skip
        self._hear()

    def go(self, trials: int) -> float:
        """Have each worker do so many trials; seconds until the last is done."""
        began = time.perf_counter()
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(f"{trials}\n")
            child.stdin.flush()
        self.errors += self._hear()
        return time.perf_counter() - began

    def _hear(self) -> int:
        return sum(int(child.stdout.readline()) for child in self._children if child.stdout)

    def close(self) -> None:
        for child in self._children:
            child.communicate()


# -- stores --------------------------------------------------------------------------------------


class Stores:
    """Copies of filled studies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = PostgresServer(200, DURABLE).start()
        self._filled: dict[tuple[str, int], str] = {}
        self._copies = 0

    def copy(self, kind: str, trials: int) -> str:
        """A fresh copy of a study with so many trials."""
        self._copies += 1
        source = self._filled_with(kind, trials)
        if kind == "sqlite":
            target = self._folder / f"copy-{self._copies}.db"
            shutil.copy(source, target)
            return f"sqlite:///{target}"
        return self._server.url(self._server.new_database(source))

    def _filled_with(self, kind: str, trials: int) -> str:
        if (kind, trials) not in self._filled:
            if kind == "sqlite":
                path = self._folder / f"filled-{trials}.db"
                fill(f"sqlite:///{path}", SPEC, trials)
                self._filled[kind, trials] = str(path)
            else:
                name = self._server.new_database()
                fill(self._server.url(name), SPEC, trials)
                self._filled[kind, trials] = name
        return self._filled[kind, trials]

    def status_seconds(self, kind: str, trials: int, folder: Path) -> tuple[float, float]:
        """(reading in this process, the whole command) at so many trials, 20 epochs a fold."""
        if kind == "sqlite":
            storage = f"sqlite:///{folder / 'status.db'}"
        else:
            storage = self._server.url(self._server.new_database())
        fill(storage, SPEC, trials, epochs=20)
        readings, commands = [], []
        for _ in range(5):
            began = time.perf_counter()
            found = status.read_study(storage, "s")
            readings.append(time.perf_counter() - began)
            assert found.trials.finished == trials
            began = time.perf_counter()
            subprocess.run(
                [Path(sys.executable).with_name("criteria"), "status", "s"],
                env={**os.environ, "CRITERIA_STORAGE": storage},
                capture_output=True, check=True,
            )  # fmt: skip
            commands.append(time.perf_counter() - began)
        return statistics.median(readings), statistics.median(commands)

    def close(self) -> None:
        self._server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(*given.work)
        return
    sizes, teams, rounds = ((1000,), (1, 4), 4) if given.quick else (
        (100, 1000, 2000), (1, 4, 8, 16), 10,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="criteria-bench-") as name:
        stores = Stores(Path(name))
        try:
            document = run(stores, sizes, teams, rounds, Path(name))
        finally:
            stores.close()
    if given.json:
        given.json.write_text(json.dumps(document, indent=1) + "\n")


def run(
    stores: Stores, sizes: tuple[int, ...], teams: tuple[int, ...], rounds: int, folder: Path
) -> dict[str, object]:
    print(f"{'store':11} {'trials':>6} {'workers':>7} {'ours ms':>8} {'bare ms':>8} {'ratio':>6}")
    cases = []
    for kind in ("sqlite", "postgresql"):
        for size in sizes:
            for workers in teams:
                case = compare(stores, kind, size, workers, rounds)
                cases.append(case)
                print(
                    f"{kind:11} {size:6} {workers:7} {case['ours_ms']:8.1f} {case['bare_ms']:8.1f} "
                    f"{case['ratio']:6.2f}  {case['ours_errors']} ours, {case['bare_errors']} bare",
                    flush=True,
                )
    looks = {kind: stores.status_seconds(kind, 10_000, folder) for kind in ("sqlite", "postgresql")}
    for kind, (reading, command) in looks.items():
        print(
            f"status at 10,000 trials, {kind}: {reading:.3f} s, the whole command {command:.2f} s"
        )
    return {
        "schema": "criteria.bench.store/1",
        "quick": rounds < 10,
        "ratio_vs_optuna": {
            kind: round(
                statistics.geometric_mean(
                    float(str(case["ratio"])) for case in cases if case["store"] == kind
                ),
                3,
            )
            for kind in ("sqlite", "postgresql")
        },
        "status_10000_s": round(max(reading for reading, _ in looks.values()), 4),
        "status_10000_command_s": {kind: round(command, 3) for kind, (_, command) in looks.items()},
        "cases": cases,
    }


def compare(stores: Stores, kind: str, size: int, workers: int, rounds: int) -> dict[str, object]:
    """Both sides in turns, a few trials at a time, so that a busy machine is busy for both."""
    teams = {side: Team(side, stores.copy(kind, size), workers) for side in ("ours", "bare")}
    seconds, each = {"ours": 0.0, "bare": 0.0}, max(1, 8 // workers)
    try:
        for turn in range(rounds):
            for side in ("ours", "bare") if turn % 2 == 0 else ("bare", "ours"):
                seconds[side] += teams[side].go(each)
    finally:
        for team in teams.values():
            team.close()
    own, other = (1000 * seconds[side] / (rounds * each * workers) for side in ("ours", "bare"))
    return {
        "store": kind, "trials": size, "workers": workers, "timed": rounds * each * workers,
        "ours_ms": round(own, 1), "bare_ms": round(other, 1), "ratio": round(own / other, 3),
        "ours_errors": teams["ours"].errors, "bare_errors": teams["bare"].errors,
    }  # fmt: skip


if __name__ == "__main__":
    main()
