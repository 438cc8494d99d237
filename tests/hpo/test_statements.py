"""Fail every SQL statement once, and end the process at every one: the study comes out the same.

SQLite's own method (sqlite.org/testing.html): repeat a scenario that fails at the first, second and
every further call. A sample of the places runs here, all of them in `make chaos`.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from desk import Desk, spec_of
from postgres_server import PostgresServer
from processes import HERE

from criteria_cli.hpo.claims import Claim
from criteria_cli.hpo.endings import Ending, finish
from criteria_cli.hpo.leases import Lease
from criteria_cli.hpo.reports import record
from criteria_cli.hpo.store_thread import StoreThread
from criteria_cli.study.spec import StudySpec
from criteria_cli.study.trial import EpochReport, FoldReport

TRIALS, FOLDS, EPOCHS = 2, 3, 3
SAMPLE = 8
SPEC = spec_of(
    validation={"folds": FOLDS},
    training={"epochs": EPOCHS},
    pruner={"type": "hyperband", "max_resource": FOLDS, "startup_trials": 0},
    budget={"trials": TRIALS},
)


@dataclass
class Faults:
    """Counts statements and fails the nth, with an error of the database's own driver: Optuna
    answers some of these by itself."""

    at: int = 0
    seen: int = 0
    how: Callable[[], None] | None = None

    commits: bool = False
    """Lose the answers to commits instead: they happen, and their connection breaks."""

    def watch(self, engine: sa.Engine) -> None:
        if not self.commits:
            sa.event.listen(
                engine, "before_cursor_execute", lambda connection, *_: self._passed(connection)
            )
            return
        commit = engine.dialect.do_commit

        def lose(connection: Any) -> None:
            commit(connection)
            self._passed(engine)

        engine.dialect.do_commit = lose  # type: ignore[method-assign]

    def _passed(self, where: sa.Engine | sa.Connection) -> None:
        self.seen += 1
        if self.seen == self.at:
            if self.how is not None:
                self.how()
            if where.dialect.name == "sqlite":
                raise sqlite3.OperationalError("disk I/O error")
            raise psycopg2.OperationalError("server closed the connection unexpectedly")


def run_study(storage: str, faults: Faults, *, adopt: bool = False) -> None:
    """Two trials through a store thread, as a worker does it."""
    desk = Desk(storage, SPEC)
    if adopt:
        desk.dead = {row[0] for row in desk.rows("select id from criteria_workers")} - {desk.id}
    faults.watch(desk.engine)
    thread = StoreThread(
        desk.url, desk.engine, desk.opened, away=lambda _: None, back=lambda *_: None, patience_s=60
    )
    try:
        while isinstance(claim := thread.submit(desk.claimer.claim).result(30), Claim):
            _train(thread, claim, SPEC)
    finally:
        thread.stop(5)
        desk.close()


def _train(thread: StoreThread, claim: Claim, spec: StudySpec) -> None:
    lease, done = claim.lease, {fold.fold: fold for fold in claim.folds}
    for number in range(1, FOLDS + 1):
        score = 0.5 + lease.trial / 10 + number / 100
        if number not in done:
            for epoch in range(1, EPOCHS + 1):
                _say(thread, spec, lease, EpochReport(number, epoch, score, score, 0.5, 1.0))
            done[number] = FoldReport(number, score, 1, EPOCHS)
            if _say(thread, spec, lease, done[number]):
                break
    outcome = "complete" if len(done) == FOLDS else "pruned"
    ending = Ending(outcome, tuple(done.values()))  # type: ignore[arg-type]
    thread.submit(lambda c, o: finish(c, o, lease, ending)).result(30)


def _say(
    thread: StoreThread, spec: StudySpec, lease: Lease, event: EpochReport | FoldReport
) -> bool:
    return thread.submit(lambda c, o: record(c, o, spec, lease, event)).result(30).stop


def outcome_of(storage: str) -> list[object]:
    """Everything that a study's trials are, without times and tokens."""
    desk = Desk(storage, SPEC)
    try:
        found: list[object] = []
        for table, columns in (
            ("trials", "number, cast(state as varchar)"),
            ("trial_values", "trial_id, value"),
            ("trial_params", "trial_id, param_name, param_value"),
            ("trial_intermediate_values", "trial_id, step, intermediate_value"),
            ("trial_system_attributes", "trial_id, key, value_json"),
            ("criteria_folds", "trial, fold, score"),
            ("criteria_epochs", "trial, fold, epoch, score"),
            ("criteria_decisions", "trial, fold, reason"),
            ("criteria_leases", "trial"),
        ):
            found += [
                (table, *row)
                for row in desk.rows(f"select {columns} from {table} order by {columns}")
            ]
        return _by_number(found)
    finally:
        desk.close()


def _by_number(rows: list[object]) -> list[object]:
    """Optuna's keys grow with transactions that were rolled back; only their order matters."""
    ids = sorted({row[1] for row in rows if str(row[0]).startswith("trial_")})  # type: ignore[index]
    return [
        (row[0], ids.index(row[1]), *row[2:]) if str(row[0]).startswith("trial_") else row  # type: ignore[index]
        for row in rows
    ]


@pytest.fixture
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Makes empty stores with tables."""
    made = [0]

    def make(kind: str) -> str:
        made[0] += 1
        if kind == "sqlite":
            path = tmp_path / f"{made[0]}.db"
            shutil.copy(request.getfixturevalue("sqlite_template"), path)
            return f"sqlite:///{path}"
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.url(server.new_database(request.getfixturevalue("postgres_template")))

    return make


def _places(count: int, every: bool) -> list[int]:
    if every:
        return list(range(1, count + 1))
    return sorted(random.Random(count).sample(range(1, count + 1), SAMPLE))


@pytest.mark.fault(12, 29, 30)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.chaos)])
@pytest.mark.parametrize("commits", [False, True], ids=["statements", "commits"])
def test_a_statement_that_fails_once_changes_nothing(
    fresh: Callable[[str], str], kind: str, every: bool, commits: bool
) -> None:
    calm = Faults(commits=commits)
    undisturbed = fresh(kind)
    run_study(undisturbed, calm)
    expected = outcome_of(undisturbed)
    harmed = []
    for place in _places(calm.seen, every):
        storage = fresh(kind)
        run_study(storage, Faults(place, commits=commits))
        if outcome_of(storage) != expected:
            harmed.append(place)
    assert not harmed, f"of {calm.seen} statements these did harm: {harmed}"


@pytest.mark.fault(30)
@pytest.mark.parametrize("step", ["claim", "tell"])
def test_a_step_survives_the_failure_of_each_of_its_statements(
    fresh: Callable[[str], str], step: str
) -> None:
    """Optuna goes on after some errors, in the transaction that they ended, and raises another."""
    place, hit = 0, True
    while hit:
        place += 1
        desk, faults = Desk(fresh("sqlite"), SPEC), Faults(place)
        thread = StoreThread(
            desk.url, desk.engine, desk.opened, away=lambda _: None, back=lambda *_: None
        )
        try:
            if step == "claim":
                faults.watch(desk.engine)
            lease = thread.submit(desk.claimer.claim).result(60).lease  # type: ignore[union-attr]
            if step == "tell":
                faults.watch(desk.engine)
                ending = Ending("complete", tuple(FoldReport(n, 0.5, 1, 2) for n in (1, 2, 3)))
                told = thread.submit(lambda c, o: finish(c, o, lease, ending))  # noqa: B023
                assert told.result(60) == "complete", place
            hit, faults.at = faults.seen >= place, 0
            assert desk.states() == ["COMPLETE" if step == "tell" else "RUNNING"], place
            assert len(desk.rows("select * from criteria_folds")) == (
                FOLDS if step == "tell" else 0
            )
        finally:
            thread.stop(5)
            desk.close()
    assert place > 20


CRASHER = """
import os, sys
from test_statements import Faults, run_study
run_study(sys.argv[1], Faults(int(sys.argv[2]), how=lambda: os._exit(9)))
"""


@pytest.mark.fault(31)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.chaos)])
def test_a_process_that_ends_at_a_statement_is_followed_by_one_that_goes_on(
    fresh: Callable[[str], str], kind: str, every: bool
) -> None:
    calm = Faults()
    undisturbed = fresh(kind)
    run_study(undisturbed, calm)
    expected = outcome_of(undisturbed)
    harmed = []
    for place in _places(calm.seen, every)[:: 1 if every else 3]:
        storage = fresh(kind)
        crashed = subprocess.run(
            [sys.executable, "-c", CRASHER, storage, str(place)],
            env={**os.environ, "PYTHONPATH": f"{HERE}:{Path(__file__).parent}"},
            check=False,
        )
        assert crashed.returncode == 9
        run_study(storage, Faults(), adopt=True)
        if outcome_of(storage) != expected:
            harmed.append(place)
    assert not harmed, f"of {calm.seen} statements these did harm: {harmed}"


def test_a_step_is_few_statements(storage: str) -> None:
    """While they run, others wait for the study's lock."""
    desk, faults = Desk(storage, spec_of(**{**SPEC.to_json(), "budget": {"trials": 9}})), Faults()
    for _ in range(3):
        desk.whole_trial()
    faults.watch(desk.engine)

    def statements(step: Callable[[], Any]) -> tuple[Any, int]:
        before = faults.seen
        return step(), faults.seen - before

    try:
        claim, claimed = statements(desk.take)
        _, epoch = statements(lambda: desk.report(claim.lease, 1, 0.5, epoch=1))
        _, fold = statements(lambda: desk.report(claim.lease, 1, 0.5))
        _, told = statements(lambda: desk.tell(claim.lease, 0.5, 0.5, 0.5))
    finally:
        desk.close()
    assert (claimed <= 40, epoch <= 3, fold <= 40, told <= 34) == (True,) * 4, (
        claimed, epoch, fold, told,
    )  # fmt: skip
