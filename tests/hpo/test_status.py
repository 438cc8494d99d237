"""What `status` reads: keys that stay, numbers that are right, few statements, no writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from desk import Desk, desks, identity_of, spec_of

from criteria_cli.errors import StoreError, UsageError
from criteria_cli.hpo import status
from criteria_cli.hpo.engine import make_engine, reading_engine
from criteria_cli.hpo.facts import TrialCounts, studies_to_json
from criteria_cli.hpo.health import Pace, Worked, pace_of, troubles_of
from criteria_cli.hpo.prepare import prepare
from criteria_cli.hpo.rehearsal import rehearse
from criteria_cli.hpo.report_facts import read_record
from criteria_cli.hpo.selection import select, study_record
from criteria_cli.hpo.url import read_url

KEYS = {
    "schema": None,
    "now": None,
    "study": {
        "name", "state", "target", "metric", "folds", "epochs", "trials", "best", "leaders",
        "eta_s", "eta_range_s", "rate_per_hour", "age_s", "last_event_age_s", "adopted",
        "data_sha256", "versions",
    },
    "pruning": {
        "folds_run", "folds_full", "epochs_run", "epochs_full", "saved_fraction", "by_reason",
        "by_rung", "confirm",
    },
    "spent": None,
    "workers": None,
    "failures": None,
    "troubles": None,
}  # fmt: skip


def test_the_document_keeps_its_keys(storage: str) -> None:
    with desks(storage, 1) as (desk,):
        desk.whole_trial(0.25)
        desk.take()
        found = status.read_study(storage, "s").to_json()
    assert set(found) == set(KEYS)
    for name, keys in KEYS.items():
        if keys is not None:
            assert set(found[name]) == keys
    assert set(found["study"]["trials"]) == {"complete", "pruned", "failed", "running", "waiting"}
    assert {"name", "device", "state", "trial", "fold", "epoch", "heartbeat_age_s"} <= set(
        found["workers"][0]
    )
    json.dumps(found, allow_nan=False)
    listed = studies_to_json(status.read_studies(storage), found["now"])
    assert listed["schema"] == "criteria.status/1"
    assert listed["studies"][0]["workers_live"] == 1


def test_trials_are_counted_by_what_became_of_them(storage: str) -> None:
    spec = spec_of(
        validation={"folds": 3},
        pruner={"type": "hyperband", "max_resource": 3, "startup_trials": 1},
        budget={"trials": 9},
    )
    with desks(storage, 2, spec=spec) as (a, b):
        a.whole_trial(0.75)
        stopped = b.take().lease
        b.report(stopped, 1, 0.1)
        b.tell(stopped, 0.1, outcome="pruned")
        failed = a.take().lease
        a.tell(failed, outcome="failed", cause="nan_loss", message="no number")
        yielded = a.take().lease
        a.tell(yielded, outcome="yielded")
        a.take()
        b.take()
        b.lease_s = -1.0
        found = status.read_study(storage, "s")
    counts = found.trials
    assert (counts.complete, counts.pruned, counts.failed) == (1, 1, 1)
    assert counts.running + counts.waiting == 2
    assert found.best is not None
    assert (found.best.trial, found.best.value, found.best.worker) == (0, 0.75, "w")
    assert found.best.fold_scores == (0.75, 0.75, 0.75)
    assert set(found.best.params) == {"learning_rate", "batch_size"}
    assert found.best.params["batch_size"] in (16, 32)
    assert (found.pruning.folds_run, found.pruning.folds_full) == (4, 6)
    assert found.pruning.saved_fraction == pytest.approx(1 / 3)
    (group,) = found.failures
    assert (group.cause, group.count, group.trials, group.message) == (
        "nan_loss",
        1,
        (2,),
        "no number",
    )


def test_a_pruned_trial_is_never_the_best(storage: str) -> None:
    spec = spec_of(validation={"folds": 3}, pruner={"type": "hyperband", "max_resource": 3})
    with desks(storage, 1, spec=spec) as (a,):
        stopped = a.take().lease
        a.report(stopped, 1, 0.99)
        a.tell(stopped, 0.99, outcome="pruned")
        assert status.read_study(storage, "s").best is None
        a.whole_trial(0.5)
        best = status.read_study(storage, "s").best
        assert best is not None
        assert best.trial == 1


def test_the_five_best_are_five_trials_on_either_database(storage: str, tmp_path: Path) -> None:
    """Trap 33: "top five" was one trial, read from a fixed SQLite path by SQLite's SQL."""
    with desks(storage, 1, spec=spec_of(budget={"trials": 7})) as (desk,):
        for score in (0.3, 0.7, 0.1, 0.9, 0.5, 0.8, 0.6):
            desk.whole_trial(score)
    found = status.read_study(storage, "s")
    assert [(leader.trial, leader.value) for leader in found.leaders] == [
        (3, 0.9), (5, 0.8), (1, 0.7), (6, 0.6), (4, 0.5),
    ]  # fmt: skip
    assert found.best == found.leaders[0]
    assert len({tuple(leader.params.items()) for leader in found.leaders}) == 5
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "criteria_cli", "status", "s", "--json"],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "CRITERIA_STORAGE": storage},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)["study"]["leaders"]
    assert [leader["trial"] for leader in shown] == [3, 5, 1, 6, 4]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_states_and_troubles(storage: str) -> None:
    with desks(storage, 1, spec=spec_of(budget={"trials": 2})) as (a,):
        assert status.read_study(storage, "s").state == "running"
        a.rows("update criteria_workers set seen_at = seen_at - 300 where 1 = 1 returning id")
        a.take()
        found = status.read_study(storage, "s")
        assert found.state == "stalled"
        assert {trouble.code for trouble in found.troubles} == {"stalled", "worker_lost"}
        assert not found.healthy
        assert found.workers[0].state == "lost"
        a.tell(a.take().lease, 0.5, 0.5)
        a.whole_trial()
        found = status.read_study(storage, "s")
        assert (found.state, found.eta_s, found.troubles) == ("finished", 0.0, ())


def test_a_study_that_is_not_there(storage: str) -> None:
    with pytest.raises(UsageError, match="no study `nope` in this storage, it is empty"):
        status.read_study(storage, "nope")
    Desk(storage).close()
    with pytest.raises(UsageError, match="no study `nope` in this storage, there are: s"):
        status.read_study(storage, "nope")
    spec = spec_of(name="deberta")
    Desk(storage, spec=spec).close()
    with pytest.raises(UsageError, match="storage, did you mean `deberta`"):
        status.read_study(storage, "debreta")


def test_a_store_that_is_not_there(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StoreError) as missing:
        status.read_studies(f"sqlite:///{tmp_path / 'none.db'}")
    assert missing.value.code == "store.missing"
    assert not (tmp_path / "none.db").exists()


def test_looking_cannot_write(storage: str) -> None:
    Desk(storage).close()
    engine = reading_engine(read_url(storage))
    with pytest.raises(sa.exc.DBAPIError, match=r"read-?only"), engine.begin() as connection:
        connection.execute(sa.text("delete from criteria_studies"))
    engine.dispose()


def test_the_number_of_statements_does_not_grow_with_the_trials(storage: str) -> None:
    spec = spec_of(budget={"trials": 30})
    with desks(storage, 1, spec=spec) as (desk,):
        counts = []
        for _ in range(2):
            for _ in range(6):
                desk.whole_trial()
            engine, seen = reading_engine(read_url(storage)), [0]
            sa.event.listen(
                engine,
                "before_cursor_execute",
                lambda *_, seen=seen: seen.__setitem__(0, seen[0] + 1),
            )
            with engine.begin() as connection:
                status.status_of(connection, "s")
            engine.dispose()
            counts.append(seen[0])
    assert counts[0] == counts[1] < 25


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("definition", "zzz"),
        ("definition", "[]"),
        ("definition", '{"validation": {}}'),
        (
            "definition",
            (
                '{"validation": {"scheme": "kfold", "folds": 2, "metric": "\\u001b[2J"}, '
                '"training": {"epochs": 1}, "pruner": {"type": "none", "startup_trials": 1}}'
            ),
        ),
        ("versions", "[1]"),
    ],
)
def test_a_study_that_another_hand_has_changed_is_called_damaged(
    column: str, value: str, storage: str
) -> None:
    with desks(storage, 1):
        engine = sa.create_engine(read_url(storage).sqlalchemy)
        with engine.begin() as connection:
            connection.execute(sa.text(f"update criteria_studies set {column} = :v"), {"v": value})
        engine.dispose()
        for read in (lambda: status.read_study(storage, "s"), lambda: status.read_studies(storage)):
            with pytest.raises(StoreError, match="of study `s` is damaged"):
                read()


@pytest.mark.parametrize(
    "change",
    [
        "criteria_folds set report = 'zzz'",
        """criteria_folds set report = '{"costs": {"data_s": "x"}}'""",
        "criteria_workers set progress = 'zzz'",
        """criteria_workers set progress = '{"trial": 0}'""",
        """criteria_workers set progress = '{"fold": "x"}'""",
    ],
)
def test_rows_that_another_hand_has_changed_are_called_damaged(change: str, storage: str) -> None:
    with desks(storage, 1) as (desk,):
        desk.whole_trial(0.5)
        desk.do(lambda c, _: c.execute(sa.text(f"update {change}")))
        for read in (lambda: status.read_study(storage, "s"), lambda: status.read_studies(storage)):
            with pytest.raises(StoreError, match="of study `s` is damaged"):
                read()


def test_a_complete_trial_whose_value_is_not_a_number_is_called_damaged(storage: str) -> None:
    """Optuna refuses to be told NaN; SQLite stores it as null, and PostgreSQL ranks it first."""
    with desks(storage, 1) as (desk,):
        for score in (0.5, 0.6, 0.4):
            desk.whole_trial(score)
        value = "null" if desk.url.is_sqlite else "'NaN'"
        of_the_second = "(select trial_id from trials where number = 1)"
        desk.do(
            lambda c, _: c.execute(
                sa.text(f"update trial_values set value = {value} where trial_id = {of_the_second}")
            )
        )
        for read in (
            lambda: status.read_study(storage, "s"),
            lambda: status.read_studies(storage),
            lambda: read_record(desk.engine, "s"),  # the report
            lambda: select(storage, "s", "best"),  # train --from best
        ):
            with pytest.raises(StoreError, match="of study `s` is damaged"):
                read()


def test_a_table_that_is_gone_is_named(storage: str) -> None:
    with desks(storage, 1) as (desk,):
        desk.do(lambda c, _: c.execute(sa.text("drop table criteria_folds")))
        for read in (
            lambda: status.read_study(storage, "s"),
            lambda: prepare(read_url(storage), identity_of(desk.spec)),
        ):
            with pytest.raises(StoreError, match="table `criteria_folds` is missing"):
                read()


@pytest.mark.parametrize(
    "change",
    [
        """criteria_folds set report = '{"per_criterion": {"A1": {"f1": "x"}}}'""",
        """criteria_folds set report = '{"per_criterion": {"A1": 5}}'""",
        """criteria_folds set report = '{"reliability": [1]}'""",
        "trials set state = 'EVIL'",
    ],
)
def test_what_only_the_report_reads_is_called_damaged_too(change: str, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'store.db'}"  # PostgreSQL refuses such a state itself
    with desks(storage, 1) as (desk,):
        desk.whole_trial(0.5)
        desk.do(lambda c, _: c.execute(sa.text("pragma ignore_check_constraints = on")))
        desk.do(lambda c, _: c.execute(sa.text(f"update {change}")))
        with pytest.raises(StoreError, match="of study `s` is damaged"):
            study_record(storage, "s")


@pytest.mark.parametrize("value", ["zzz", "[]", "5"])
def test_nobody_joins_a_study_whose_identity_is_damaged(value: str, storage: str) -> None:
    spec = spec_of()
    prepare(read_url(storage), identity_of(spec))
    engine = make_engine(read_url(storage))
    with engine.begin() as connection:
        connection.execute(sa.text("update criteria_studies set identity = :v"), {"v": value})
    engine.dispose()
    identity = identity_of(spec)
    for join in (
        lambda: prepare(read_url(storage), identity),
        lambda: rehearse(storage, spec, identity.data_sha256, identity.pairs, Path("runs/s")),
    ):
        with pytest.raises(StoreError, match="of study `s` is damaged"):
            join()


def test_status_does_not_import_optuna_or_torch() -> None:
    code = (
        "import sys, criteria_cli.hpo.status;"
        "print([m for m in ('optuna', 'torch', 'alembic', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_time_left_follows_the_pace_and_the_workers() -> None:
    # two workers, each a trial in two minutes, for twenty minutes
    worked = [Worked(60.0 * n + 120.0, 60.0 * n, finished=True) for n in range(20)]
    both = pace_of(worked, left=20, live=2)
    assert both.per_hour == pytest.approx(60.0)
    assert both.eta_s == pytest.approx(1200.0)
    assert both.range_s is not None
    assert both.range_s[0] < 1200.0 < both.range_s[1]
    assert pace_of(worked, left=20, live=1).eta_s == pytest.approx(2400.0)
    assert pace_of(worked, left=20, live=4).eta_s == pytest.approx(600.0)
    # with fewer trials left than workers, a trial takes what a trial takes
    assert pace_of(worked, left=1, live=4).eta_s == pytest.approx(120.0)
    assert pace_of(worked, left=20, live=0).eta_s is None
    assert pace_of(worked[:4], left=20, live=1).eta_s is None
    assert pace_of(worked, left=0, live=0).eta_s == 0.0


def test_time_in_which_nobody_worked_does_not_count() -> None:
    night = 30000.0
    worked = [Worked(60.0 * n + 60.0, 60.0 * n, finished=True) for n in range(3)]
    worked += [Worked(60.0 * n + 60.0 + night, 60.0 * n + night, True) for n in range(3, 9)]
    assert pace_of(worked, left=10, live=1).eta_s == pytest.approx(600.0)


def test_work_that_came_to_nothing_or_is_not_done_counts() -> None:
    worked = [
        Worked(100.0, 0.0, finished=False),  # runs
        *(Worked(60.0 * n + 60.0, 60.0 * n, finished=True) for n in range(5)),
        Worked(350.0, 300.0, finished=False),  # failed
    ]
    assert pace_of(worked, left=9, live=1).eta_s == pytest.approx(9 * 450.0 / 5)


def test_the_estimate_is_read_from_a_store(storage: str) -> None:
    """The time of a worker that died ends with its last sign of life."""
    with desks(storage, 1, spec=spec_of(budget={"trials": 12})) as (a,):
        for _ in range(6):
            a.whole_trial()
        a.rows(
            "update criteria_attempts set started_at = ended_at - 100 where 1 = 1 returning trial"
        )
        assert status.read_study(storage, "s").eta_s == pytest.approx(600.0)
        lost = a.take()
        a.rows(
            "update criteria_attempts set started_at = started_at - 5000 "
            f"where trial = {lost.lease.trial} returning trial"
        )
        found = status.read_study(storage, "s")
        assert found.eta_s == pytest.approx(5600.0, rel=0.02)
        a.rows("update criteria_workers set seen_at = seen_at - 4000 where 1 = 1 returning id")
        assert status.read_study(storage, "s").eta_s is None


def test_epochs_of_a_fold_that_was_cut_short_are_counted(storage: str) -> None:
    spec = spec_of(
        validation={"folds": 3},
        pruner={"type": "racing", "startup_trials": 3},
        budget={"trials": 9},
    )
    with desks(storage, 1, spec=spec) as (desk,):
        for level in (0.50, 0.53, 0.56):
            desk.whole_trial(level)
        stopped = desk.take().lease
        assert desk.report(stopped, 1, 0.01, epoch=1).stop
        desk.tell(stopped, outcome="pruned")
        found = status.read_study(storage, "s").pruning
    assert (found.folds_run, found.folds_full) == (9, 12)
    assert (found.epochs_run, found.epochs_full) == (19, 24)
    assert found.saved_fraction == pytest.approx(5 / 24)
    assert found.by_reason == {"racing": 1}
    (rung,) = found.by_rung
    assert (rung.reason, rung.fold, rung.epoch, rung.pruned) == ("racing", 1, 1, 1)


@pytest.mark.parametrize(
    ("complete", "pruned", "startup", "pruner", "expected"),
    [
        (20, 0, 10, "hyperband", {"pruner_silent"}),
        (19, 0, 10, "hyperband", set()),
        (19, 1, 10, "hyperband", set()),
        (39, 0, 30, "hyperband", set()),  # nine of them could have been stopped
        (20, 0, 10, "none", set()),
        (0, 20, 0, "hyperband", {"pruner_greedy"}),
        (0, 19, 0, "hyperband", set()),
    ],
)
def test_a_pruner_that_stops_nothing_or_everything_is_called_out(
    complete: int, pruned: int, startup: int, pruner: str, expected: set[str]
) -> None:
    found = troubles_of(
        "s",
        state="running",
        paused=None,
        counts=TrialCounts(complete=complete, pruned=pruned),
        begun_over=0,
        team=(),
        failures=(),
        pruner=pruner,
        startup=startup,
        pace=Pace(),
        versions=(),
    )
    assert {trouble.code for trouble in found} == expected


def test_weeks_are_announced_by_the_first_folds(storage: str) -> None:
    with desks(storage, 1, spec=spec_of(budget={"trials": 100})) as (a,):
        lease = a.take().lease
        assert status.read_study(storage, "s").troubles == ()
        for epoch in (1, 2, None):
            a.report(lease, 1, 0.5, epoch)
        a.rows("update criteria_epochs set seconds = 5000 where 1 = 1 returning trial")
        found = status.read_study(storage, "s")
        # two epochs of 5,000 s in each of two folds of a hundred trials
        assert found.eta_s is None
        assert [trouble.message for trouble in found.troubles] == [
            "it takes up to 23 days, less what is pruned"
        ]
        assert found.healthy, "a person should know, nothing is wrong"
        a.rows("update criteria_epochs set seconds = 500 where 1 = 1 returning trial")
        assert status.read_study(storage, "s").troubles == ()
