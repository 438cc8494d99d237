"""`deploy/slurm.sbatch` on a real SLURM: arrays of workers, time limits, preemption, `scancel`."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from invariants import check, trained_twice
from postgres_server import PostgresServer
from processes import Place, wait_until
from slurm_cluster import SlurmCluster, why_not

from criteria_cli.hpo.engine import reading_engine
from criteria_cli.hpo.tables import attempts, workers
from criteria_cli.hpo.url import read_url

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "slurm.sbatch"
TRAINER = ROOT / "tests" / "support" / "scheduled_trainer.py"
GOING = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SIGNALING", "REQUEUED"}
SERVICE = "[criteria]\nhost={host}\nuser=postgres\ndbname={database}\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    cluster = SlurmCluster()
    try:
        yield cluster.start()
    finally:
        cluster.stop()


class Array:
    """A study and the array of jobs that works on it, submitted as a user would."""

    def __init__(self, cluster: SlurmCluster, folder: Path, storage: str, service: Path) -> None:
        self._cluster = cluster
        timings = {"lease": 20.0, "beat": 1.0, "poll": 0.2, "drain": 15.0}
        self.place = Place(folder, storage, timings=timings)
        self._environment = self.place.environment(
            {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "CRITERIA_STORAGE": "postgresql:///?service=criteria",
                "PGSERVICEFILE": str(service),
                "CRITERIA_TRAINER": str(TRAINER),
                "CRITERIA_RUNS": str(self.place.runs),
            }
        )

    def write(self, *, epochs: int, epoch_s: float, trials: int) -> None:
        self.place.write(trials=trials, epochs=epochs)
        self._environment["SYNTHETIC_EPOCH_S"] = str(epoch_s)

    def submit(self, tasks: int, *flags: str) -> None:
        """`sbatch` for so many tasks; `flags` go before the script."""
        self.id = self._cluster.run(
            "sbatch", "--parsable", f"--array=1-{tasks}", "--cpus-per-task=1", "--mem=100M",
            f"--chdir={self.place.folder}", *flags, str(SCRIPT), str(self.place.file),
            env=self._environment,
        ).strip()  # fmt: skip

    def tasks(self) -> dict[str, dict[str, str]]:
        """What SLURM says of each task, by its number; those that never ran are one, `2-3`."""
        jobs = self._cluster.run("scontrol", "show", "job", "--oneliner", self.id).splitlines()
        fields = [dict(re.findall(r"(\w+)=(\S+)", job)) for job in jobs]
        return {job["ArrayTaskId"]: job for job in fields}

    def states(self) -> set[str]:
        return {task["JobState"] for task in self.tasks().values()}

    def wait_for_end(self, timeout: float = 300.0) -> None:
        """Until no task waits or runs any more."""
        try:
            wait_until(lambda: not self.states() & GOING, timeout, "the end of the array")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tasks()}\n{self.logs()}") from None

    def wait_for_trials(self, count: int) -> None:
        """Until so many workers train: an epoch of each one's trial is trained."""

        def trained() -> int:
            return len(list((self.place.runs / self.place.name).glob("trial-*/history.jsonl")))

        wait_until(lambda: trained() >= count, 120, f"the start of {count} trials")

    def worker_of_trial(self, number: int) -> int:
        """The process id of the worker that trains a trial."""
        history = self.place.runs / self.place.name / f"trial-{number}" / "history.jsonl"
        trainer = json.loads(history.read_text().splitlines()[-1])["pid"]
        return int(Path(f"/proc/{trainer}/stat").read_text().rpartition(")")[2].split()[1])

    def cancel(self, *which: str) -> None:
        self._cluster.run("scancel", *which)

    def logs(self) -> str:
        """What the tasks wrote."""
        return "\n".join(path.read_text() for path in self.log_files())

    def log_files(self) -> list[Path]:
        return sorted(self.place.folder.glob("criteria-*.log"))

    def check(self, target: int, *, again: int = 0) -> None:
        """Raise unless the study is whole, at most `again` epochs were repeated, logs private."""
        check(self.place.storage, self.place.runs, self.place.name, target=target)
        repeated = trained_twice(self.place.runs / self.place.name)
        assert repeated["epochs_again"] <= again, repeated
        for log in self.log_files():
            assert log.stat().st_mode & 0o077 == 0, f"others can read {log.name}"

    def rows(self, table: sa.Table) -> list[sa.Row[tuple[object, ...]]]:
        engine = reading_engine(read_url(self.place.storage))
        try:
            with engine.begin() as connection:
                return list(connection.execute(sa.select(table)))
        finally:
            engine.dispose()


@pytest.fixture
def array(
    cluster: SlurmCluster, tmp_path: Path, postgres: PostgresServer, postgres_template: str
) -> Iterator[Array]:
    database = postgres.new_database(postgres_template)
    service = tmp_path / "pg_service.conf"
    service.write_text(SERVICE.format(host=postgres.socket, database=database))
    array = Array(cluster, tmp_path, postgres.url(database), service)
    yield array
    array.cancel("--user=root")
    array.wait_for_end(60)


def test_tasks_of_an_array_share_one_study_and_each_has_a_card_of_its_own(array: Array) -> None:
    array.write(epochs=5, epoch_s=0.2, trials=9)
    array.submit(3)
    array.wait_for_end()
    assert array.states() == {"COMPLETED"}, array.logs()
    array.check(9)
    rows = array.rows(workers)
    assert {row.name for row in rows} == {f"slurm-{array.id}_{task}" for task in (1, 2, 3)}
    assert {row.device_name for row in rows} == {"card 0", "card 1"}
    for one in rows:
        for other in rows:
            together = one.started_at < other.ended_at and other.started_at < one.ended_at
            assert one is other or not together or one.device_name != other.device_name


def test_before_its_time_limit_a_task_saves_and_queues_itself_again(array: Array) -> None:
    array.write(epochs=50, epoch_s=0.2, trials=5)
    array.submit(2, "--time=1", "--signal=B:USR1@50")
    array.wait_for_end()
    assert array.states() == {"COMPLETED"}, array.logs()
    assert all(int(task["Restarts"]) >= 1 for task in array.tasks().values())
    assert "stopped by SIGUSR1, everything is saved" in array.logs()
    array.check(5)
    assert {row.outcome for row in array.rows(attempts)} == {"complete", "yielded"}


def test_a_more_urgent_job_sends_tasks_back_to_the_queue(
    array: Array, cluster: SlurmCluster
) -> None:
    array.write(epochs=40, epoch_s=0.2, trials=4)
    array.submit(2)
    array.wait_for_trials(2)
    go = array.place.folder / "go"
    os.mkfifo(go)
    urgent = cluster.run(
        "sbatch", "--parsable", "--partition=urgent", "--gres=gpu:2", "--mem=100M",
        "--output=/dev/null", f"--wrap=read line < {go}",
    ).strip()  # fmt: skip
    with go.open("w") as line:  # opens when the urgent job runs
        assert array.states() == {"PENDING"}, array.tasks()
        line.write("\n")
    array.wait_for_end()
    assert array.states() == {"COMPLETED"}, array.logs()
    assert all(int(task["Restarts"]) == 1 for task in array.tasks().values())
    array.check(4)
    assert "JobState=COMPLETED" in cluster.run("scontrol", "show", "job", urgent)


def test_a_cancelled_task_leaves_its_trial_to_the_others_and_stays_away(array: Array) -> None:
    array.write(epochs=30, epoch_s=0.2, trials=4)
    array.submit(2)
    array.wait_for_trials(2)
    array.cancel(f"{array.id}_1")
    array.wait_for_end()
    tasks = array.tasks()
    assert (tasks["1"]["JobState"], tasks["1"]["Restarts"]) == ("CANCELLED", "0"), array.logs()
    assert tasks["2"]["JobState"] == "COMPLETED", array.logs()
    array.check(4)
    given = [row for row in array.rows(attempts) if row.outcome == "yielded"]
    assert [row.worker_name for row in given] == [f"slurm-{array.id}_1"]


def test_a_task_that_is_killed_is_replaced_by_the_others(array: Array) -> None:
    array.write(epochs=30, epoch_s=0.2, trials=4)
    array.submit(2)
    array.wait_for_trials(2)
    os.kill(array.worker_of_trial(0), signal.SIGKILL)
    array.wait_for_end()
    assert array.states() == {"FAILED", "COMPLETED"}, array.logs()
    array.check(4, again=1)
    assert [row.outcome for row in array.rows(attempts)].count("lost") == 1


@pytest.mark.parametrize(
    ("storage", "password", "said"),
    [
        ("", "", "CRITERIA_STORAGE is not set"),
        ("sqlite:///x.db", "", "SQLite serves one machine"),
        ("postgresql://me:s3cr3tPW@host/db", "", "CRITERIA_STORAGE holds a password"),
        ("postgresql:///?service=criteria&password=s3cr3tPW", "", "holds a password"),
        ("postgresql:///?service=criteria", "s3cr3tPW", "PGPASSWORD is set"),
    ],
)
def test_a_store_that_no_array_can_use_is_refused_at_once(
    array: Array, storage: str, password: str, said: str
) -> None:
    array.write(epochs=1, epoch_s=0.0, trials=1)
    array._environment |= {"CRITERIA_STORAGE": storage, "PGPASSWORD": password}
    array.submit(1)
    array.wait_for_end()
    assert array.tasks()["1"]["ExitCode"] == "2:0"
    assert said in array.logs()
    assert "s3cr3tPW" not in array.logs()
    assert not array.place.runs.exists()
