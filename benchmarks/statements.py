"""Fail each SQL statement once, and end the process at each: how many places do harm?

    python benchmarks/statements.py [--quick] [--json FILE] [--database sqlite|postgresql]

Two trials of three folds and three epochs. A statement fails with an error of the driver's own:
a disk error on SQLite, a lost connection on PostgreSQL. Ours goes through the worker's own store
thread. Bare Optuna is `study.optimize` with its heartbeat and `RetryHeartbeatStaleTrialCallback`,
reporting as often. A place does harm if what is stored in the end differs from an undisturbed run:
a trial that is failed or left running, a report or a value that is missing, a budget that is not
met, or a worker that ended with an exception. After an end of the process the same command is run
again; bare Optuna is ended at every fourth place. `--quick` tries every eighth place, and ends the
process at every forty-eighth.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve()
TESTS = HERE.parent.parent / "tests"
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "hpo")]

import optuna
import sqlalchemy as sa
from postgres_server import PostgresServer
from test_statements import EPOCHS, FOLDS, TRIALS, Faults, outcome_of, run_study

from criteria_cli.hpo.prepare import make_tables
from criteria_cli.hpo.url import read_url

CRASH = 9
FULL = {
    ("ours", "failed"): 1, ("ours", "ended"): 1, ("bare", "failed"): 1, ("bare", "ended"): 4,
}  # fmt: skip
"""Every how manieth place is tried. Bare Optuna waits for its grace period after each end."""
QUICK = {
    ("ours", "failed"): 8, ("ours", "ended"): 48, ("bare", "failed"): 8, ("bare", "ended"): 48,
}  # fmt: skip


class Stores:
    """Fresh stores with tables, by copying one."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._folder, self._made = folder, 0
        self._server = PostgresServer().start() if kind == "postgresql" else None
        if self._server:
            self._template = self._server.new_database()
            make_tables(read_url(self._server.url(self._template)))
        else:
            self._template = str(folder / "template.db")
            make_tables(read_url(f"sqlite:///{self._template}"))

    def fresh(self) -> str:
        self._made += 1
        if self._server:
            return self._server.url(self._server.new_database(self._template))
        path = self._folder / f"{self._made}.db"
        shutil.copy(self._template, path)
        return f"sqlite:///{path}"

    def close(self) -> None:
        if self._server:
            self._server.stop()


# -- bare Optuna ---------------------------------------------------------------------------------


def run_bare(storage: str, faults: Faults) -> None:
    """`study.optimize` until the budget is met, as its documentation has it."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    address = read_url(storage).sqlalchemy.render_as_string(hide_password=False)
    backend = optuna.storages.RDBStorage(
        address,
        engine_kwargs={"pool_pre_ping": True},
        heartbeat_interval=1,
        grace_period=2,
        heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
    )
    study = optuna.create_study(
        study_name="s",
        storage=backend,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=1),
        pruner=optuna.pruners.HyperbandPruner(1, FOLDS, 3),
    )
    faults.watch(backend.engine)

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("learning_rate", 1e-6, 1e-3, log=True)
        trial.suggest_categorical("batch_size", (16, 32))
        score = 0.0
        for step in range(1, FOLDS * (EPOCHS + 1) + 1):
            score = 0.5 + step / 100
            trial.report(score, step)
            trial.should_prune()
        return score

    done = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    try:
        study.optimize(objective, n_trials=TRIALS - done, catch=(Exception,))
    finally:
        backend.engine.dispose()


def is_harmed_bare(storage: str) -> bool:
    engine = sa.create_engine(read_url(storage).sqlalchemy)
    with engine.connect() as connection:
        states = list(
            connection.execute(sa.text("select cast(state as varchar) from trials")).scalars()
        )
        reports = connection.execute(
            sa.text("select count(*) from trial_intermediate_values")
        ).scalar_one()
    engine.dispose()
    complete = states == ["COMPLETE"] * TRIALS
    return not complete or reports != TRIALS * FOLDS * (EPOCHS + 1)


# -- the loops -----------------------------------------------------------------------------------


def run_ours(storage: str, faults: Faults) -> None:
    run_study(storage, faults, adopt=True)


def run_side(side: str, storage: str, faults: Faults) -> None:
    (run_ours if side == "ours" else run_bare)(storage, faults)


def harm_of_failures(side: str, stores: Stores, step: int) -> dict[str, object]:
    places, expected = _undisturbed(side, stores)
    harmed = []
    for place in range(1, places + 1, step):
        storage = stores.fresh()
        try:
            run_side(side, storage, Faults(place))
            harm = _is_harmed(side, storage, expected)
        except Exception:
            harm = True  # the worker ended
        if harm:
            harmed.append(place)
    return _figures(places, step, harmed)


def harm_of_ends(side: str, stores: Stores, step: int) -> dict[str, object]:
    places, expected = _undisturbed(side, stores)
    harmed = []
    for place in range(1, places + 1, step):
        storage = stores.fresh()
        _child(side, storage, place)
        if side == "bare":
            time.sleep(2.5)  # its grace period, so that a heartbeat may be missed
        again = _child(side, storage, 0)
        if again or _is_harmed(side, storage, expected):
            harmed.append(place)
    return _figures(places, step, harmed)


def _child(side: str, storage: str, place: int) -> int:
    return subprocess.run(
        [sys.executable, str(HERE), "--child", side, storage, str(place)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        check=False,
    ).returncode


def _undisturbed(side: str, stores: Stores) -> tuple[int, list[object]]:
    calm, storage = Faults(), stores.fresh()
    run_side(side, storage, calm)
    return calm.seen, outcome_of(storage) if side == "ours" else []


def _is_harmed(side: str, storage: str, expected: list[object]) -> bool:
    return outcome_of(storage) != expected if side == "ours" else is_harmed_bare(storage)


def _figures(places: int, step: int, harmed: list[int]) -> dict[str, object]:
    tried = len(range(1, places + 1, step))
    return {"statements": places, "tried": tried, "harmed": len(harmed), "places": harmed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        side, storage, place = given.child
        how: Callable[[], None] = lambda: os._exit(CRASH)  # noqa: E731
        run_side(side, storage, Faults(int(place), how=how))
        return
    found: dict[str, object] = {"schema": "criteria.bench.statements/1", "quick": given.quick}
    for kind in given.database or ["sqlite", "postgresql"]:
        for side in ("ours", "bare"):
            for name, loop in (("failed", harm_of_failures), ("ended", harm_of_ends)):
                step = (QUICK if given.quick else FULL)[side, name]
                with tempfile.TemporaryDirectory(prefix="criteria-nth-") as folder:
                    stores = Stores(kind, Path(folder))
                    try:
                        figures = loop(side, stores, step)
                    finally:
                        stores.close()
                found[f"{kind} {side} {name}"] = figures
                print(
                    f"{kind:11} {side:5} {name:7} at {figures['tried']:3} of "
                    f"{figures['statements']:3} statements: harm at {figures['harmed']}",
                    flush=True,
                )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
