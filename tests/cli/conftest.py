"""Running `criteria` as a person does: a process of its own, in an empty folder."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from criteria_cli.hpo.facts import (
    BestTrial,
    FailureGroup,
    PruningStatus,
    RungCount,
    StudyStatus,
    TrialCounts,
    Trouble,
    WorkerStatus,
)

RUNNER = """
import os, sys
exec(os.environ.pop("TEST_PRELUDE", ""))
from criteria_cli.cli.app import main
code = main()
heavy = ("torch", "transformers", "optuna", "sklearn", "sqlalchemy", "rich", "pydantic", "numpy")
with open(os.environ["TEST_MODULES"], "w") as file:
    file.write(" ".join(name for name in heavy if name in sys.modules))
sys.exit(code)
"""


@dataclass(frozen=True)
class Ran:
    """What a command said and did."""

    code: int
    out: str
    err: str
    modules: frozenset[str]
    """Heavy packages that the process had imported at its end."""


Run = Callable[..., Ran]


@pytest.fixture(scope="session")
def run_in(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs `criteria` in a folder: `run_in(folder, "status", env={...})`."""
    script = tmp_path_factory.mktemp("runner") / "criteria"
    script.write_text(RUNNER)
    modules = script.with_suffix(".modules")

    def call(
        folder: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        prelude: str = "",
        timeout: float = 120,
        stdout: Any = None,
    ) -> Ran:
        modules.unlink(missing_ok=True)
        more = {**(env or {}), "TEST_PRELUDE": prelude, "TEST_MODULES": str(modules)}
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=folder,
            env=environment(more),
            stdin=subprocess.DEVNULL,
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=timeout,
            check=False,
        )
        found = modules.read_text().split() if modules.exists() else []
        return Ran(done.returncode, done.stdout or "", done.stderr, frozenset(found))

    return call


@pytest.fixture
def run(run_in: Run, tmp_path: Path) -> Run:
    """Runs `criteria` in this test's folder."""
    return functools.partial(run_in, tmp_path)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This environment without what would change a command's answer."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CRITERIA_", "PG", "HF_", "CUDA_VISIBLE"))
    }
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


@pytest.fixture
def study_status() -> StudyStatus:
    """A study in the middle of its life, with everything that a screen can show."""
    best = BestTrial(
        118,
        0.7412,
        {"learning_rate": 1.9e-05, "batch_size": 16, "weight_decay": 0.011, "scheduler": "cosine"},
        (0.73, 0.75, 0.74, 0.745, 0.741),
        18720.0,
        "a100-03:0",
    )
    second = BestTrial(96, 0.7401, dict(best.params), (0.72, 0.75, 0.74, 0.75, 0.74), 40000.0, "b")
    workers = tuple(
        WorkerStatus(
            name=f"a100-0{number}:0",
            machine=f"a100-0{number}",
            device="cuda:0",
            state="train" if number < 3 else "lost",
            trial=147 + number if number < 3 else None,
            fold=2 if number < 3 else None,
            epoch=7 if number < 3 else None,
            heartbeat_age_s=3.0 if number < 3 else 3840.0,
            device_name="NVIDIA A100-SXM4-40GB",
            last_score=0.7108,
            best_score=0.716,
            trial_age_s=1260.0,
            examples_per_s=183.4,
            memory_bytes=33_500_000_000,
            done=24,
            failed=0,
        )
        for number in range(4)
    )
    return StudyStatus(
        name="deberta-nli-5fold",
        state="running",
        target=200,
        metric="f1",
        folds=5,
        epochs=100,
        trials=TrialCounts(complete=61, pruned=79, failed=3, running=3, waiting=1),
        best=best,
        leaders=(best, second),
        eta_s=11400.0,
        eta_range_s=(9600.0, 14700.0),
        rate_per_hour=18.0,
        age_s=100000.0,
        last_event_age_s=4.0,
        pruning=PruningStatus(
            folds_run=381,
            folds_full=700,
            epochs_run=8763,
            epochs_full=16100,
            saved_fraction=0.456,
            by_reason={"hyperband": 60, "patience": 19},
            by_rung=(
                RungCount("hyperband", 1, None, 44),
                RungCount("hyperband", 3, None, 16),
                RungCount("patience", 2, None, 19),
            ),
        ),
        failures=(
            FailureGroup("cuda_oom", "a100-03", 2, (12, 13), "one pair of 512 tokens does not fit"),
            FailureGroup("nan_loss", "rtx-01", 1, (40,), "the loss is not a number"),
        ),
        workers=workers,
        adopted=4,
        data_sha256="4f1c29a8" * 8,
        versions={"criteria": "0.1.0"},
        now="2026-11-23T14:02:11Z",
        troubles=(Trouble("worker_lost", "a100-03:0 sent no heartbeat for 64 m", "look at it"),),
    )
