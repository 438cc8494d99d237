"""The SLURM script on a real SLURM: an array of workers on one PostgreSQL study."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from invariants import check, outcomes
from processes import HERE, Place, wait_until
from slurm import Slurm, missing

SCRIPT = HERE.parent.parent / "deploy" / "slurm" / "criteria.sbatch"
REASON = missing()

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(900),
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]

STAND_IN = """\
#!/bin/bash
# In the place of `criteria`: `hpo STUDY`, with the GPU that SLURM gave this task as its card.
shift
card="GPU-$CUDA_VISIBLE_DEVICES"
exec {python} {worker} "$1" "$CRITERIA_STORAGE" {runs} "{{\\"cards\\": [\\"$card\\"]}}"
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    made = Slurm(tmp_path_factory.mktemp("slurm"))
    yield made
    made.stop()


@pytest.fixture
def cluster(postgres_place: Place, slurm: Slurm) -> tuple[Place, Slurm]:
    """A study, and a SLURM whose `criteria` trains it."""
    place = postgres_place
    stand_in = place.folder / "criteria"
    stand_in.write_text(
        STAND_IN.format(python=sys.executable, worker=HERE / "run_worker.py", runs=place.runs)
    )
    stand_in.chmod(0o755)
    place.timings |= {"lease": 20.0, "beat": 1.0, "drain": 10.0}
    slurm.environment |= place.environment(
        {"CRITERIA": str(stand_in), "CRITERIA_STORAGE": place.storage, "SYNTHETIC_EPOCH_S": "0.3"}
    )
    return place, slurm


def options(tasks: str, *more: str) -> tuple[str, ...]:
    return (
        f"--array={tasks}", "--gres=gpu:1", "--cpus-per-task=1", "--mem=500M", "--time=10",
        "--signal=USR1@30", "--export=ALL", *more,
    )  # fmt: skip


def log_of(place: Place, job: int, task: str) -> str:
    path = place.folder / f"criteria-{job}_{task}.log"
    return path.read_text() if path.exists() else ""


def wait_for_line(place: Place, job: int, task: str, text: str, count: int = 1) -> None:
    wait_until(
        lambda: log_of(place, job, task).count(text) >= count, 120, f"`{text}` of task {task}"
    )


def test_an_array_shares_a_study_and_each_task_has_its_own_device(
    cluster: tuple[Place, Slurm],
) -> None:
    place, slurm = cluster
    place.write(trials=6, epochs=4)
    job = slurm.submit(SCRIPT, str(place.file), options=options("1-2"), folder=place.folder)
    for task in ("1", "2"):
        slurm.wait_for(job, task, "COMPLETED")
    check(place.storage, place.runs, place.name, target=6)
    logs = [log_of(place, job, task) for task in ("1", "2")]
    assert all("TrialEnded" in log for log in logs)
    locks = {f"slurm-{job}_{task}" for task in ("1", "2")}
    assert all(any(f"worker='{name}'" in log for log in logs) for name in locks)
    assert "password" not in slurm.shown(job, "1").lower()


def test_a_task_that_is_told_before_its_limit_saves_and_is_queued_again(
    cluster: tuple[Place, Slurm],
) -> None:
    """The real limit: one minute, with the signal sent before it."""
    place, slurm = cluster
    place.write(trials=1, epochs=120)
    job = slurm.submit(
        SCRIPT,
        str(place.file),
        options=options("1-1", "--time=1", "--signal=USR1@45"),
        folder=place.folder,
    )
    wait_for_line(place, job, "1", "stopped by SIGUSR1, everything is saved")
    wait_until(lambda: "Restarts=1" in slurm.shown(job, "1"), 120, "the second start")
    wait_for_line(place, job, "1", "TrialStarted", count=2)
    slurm.cancel(job, "1")
    slurm.wait_for(job, "1", "CANCELLED")
    last = place.start()
    assert last.end(200) == 0, last.text
    check(place.storage, place.runs, place.name, target=1)


def test_a_preempted_task_saves_and_goes_on_afterwards(cluster: tuple[Place, Slurm]) -> None:
    place, slurm = cluster
    place.write(trials=2, epochs=25)
    job = slurm.submit(SCRIPT, str(place.file), options=options("1-2"), folder=place.folder)
    for task in ("1", "2"):
        wait_for_line(place, job, task, "EpochEnded")
    urgent = place.folder / "urgent.sh"
    urgent.write_text("#!/bin/bash\nsleep 3\n")
    slurm.submit(
        urgent,
        options=("--partition=high", "--exclusive", "--mem=500M", "--output=urgent.log"),
        folder=place.folder,
    )
    for task in ("1", "2"):
        wait_for_line(place, job, task, "everything is saved")
    for task in ("1", "2"):
        slurm.wait_for(job, task, "COMPLETED", timeout=300)
    check(place.storage, place.runs, place.name, target=2)
    assert {outcome for _, outcome, _ in outcomes(place)} == {"yielded", "complete"}


def test_a_cancelled_task_gives_its_trial_back_and_stays_cancelled(
    cluster: tuple[Place, Slurm],
) -> None:
    place, slurm = cluster
    place.write(trials=2, epochs=25)
    job = slurm.submit(SCRIPT, str(place.file), options=options("1-2"), folder=place.folder)
    for task in ("1", "2"):
        wait_for_line(place, job, task, "EpochEnded")
    slurm.cancel(job, "2")
    slurm.wait_for(job, "2", "CANCELLED")
    slurm.wait_for(job, "1", "COMPLETED")
    assert slurm.states(job)["2"] == "CANCELLED"
    check(place.storage, place.runs, place.name, target=2)
