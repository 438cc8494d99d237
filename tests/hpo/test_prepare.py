"""The store is made once; joiners check it; nobody joins who would run another study."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from desk import desks, identity_of, spec_of
from processes import HERE

from criteria_cli.errors import StoreError, UsageError
from criteria_cli.hpo import prepare as preparing
from criteria_cli.hpo import rows
from criteria_cli.hpo.engine import make_engine
from criteria_cli.hpo.prepare import Budget, prepare
from criteria_cli.hpo.rows import WorkerRow
from criteria_cli.hpo.runs_folder import claim_folder
from criteria_cli.hpo.schema import read_versions
from criteria_cli.hpo.url import read_url

STARTER = """
import sys
from desk import identity_of, spec_of
from criteria_cli.hpo.prepare import prepare
from criteria_cli.hpo.url import read_url
identity = identity_of(spec_of())
print("ready", flush=True)
sys.stdin.readline()
print(prepare(read_url(sys.argv[1]), identity))
"""


def test_eight_first_starters_make_one_study(empty_storage: str) -> None:
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", STARTER, empty_storage],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={"PYTHONPATH": str(HERE), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        )
        for _ in range(8)
    ]  # fmt: skip
    for starter in starters:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "ready\n"
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write("\n")
        starter.stdin.flush()
    answers = [starter.communicate(timeout=120) for starter in starters]
    assert [starter.returncode for starter in starters] == [0] * 8, answers
    assert len({out for out, _ in answers}) == 1
    assert _count(empty_storage, "studies") == _count(empty_storage, "criteria_studies") == 1


@pytest.mark.parametrize(("direction", "trials"), [("minimize", 0), ("maximize", 1)])
def test_a_study_of_another_program_is_not_taken_over(
    direction: str, trials: int, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path}/criteria.db"
    study = optuna.create_study(study_name="s", storage=storage, direction=direction)
    study.optimize(lambda trial: trial.suggest_float("lr", 0, 1), n_trials=trials)
    with pytest.raises(UsageError, match="has a study `s` of another program"):
        prepare(read_url(storage), identity_of(spec_of()))
    assert _count(storage, "criteria_studies") == 0
    assert prepare(read_url(storage), identity_of(spec_of(name="t")))


def _count(storage: str, table: str) -> int:
    return int(_rows(storage, f"select count(*) from {table}")[0][0])


def _rows(storage: str, statement: str) -> list[sa.Row[tuple[object, ...]]]:
    engine = make_engine(read_url(storage))
    with engine.begin() as connection:
        result = connection.execute(sa.text(statement))
        found = list(result) if result.returns_rows else []
    engine.dispose()
    return found


@pytest.mark.parametrize("place", ["prepare.optuna", "prepare.tables", "prepare.study"])
def test_a_start_that_breaks_off_is_completed_by_the_next(
    empty_storage: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(passed: str) -> None:
        if passed == place:
            raise InterruptedError

    monkeypatch.setattr(preparing, "failpoint", fail)
    with pytest.raises(InterruptedError):
        prepare(read_url(empty_storage), identity_of(spec_of()))
    monkeypatch.undo()
    prepare(read_url(empty_storage), identity_of(spec_of()))
    assert _count(empty_storage, "criteria_studies") == 1


def test_optuna_opens_the_same_store(storage: str) -> None:
    prepare(read_url(storage), identity_of(spec_of()))
    address = read_url(storage).sqlalchemy.render_as_string(hide_password=False)
    backend = optuna.storages.RDBStorage(address)
    assert optuna.load_study(study_name="s", storage=backend).direction.name == "MAXIMIZE"
    assert backend.get_current_version() == backend.get_head_version()
    backend.engine.dispose()


# -- identity ------------------------------------------------------------------------------------


def _snapshot(storage: str) -> list[object]:
    return [
        *_rows(storage, "select * from criteria_studies"),
        *_rows(storage, "select * from studies"),
    ]


@pytest.mark.fault(45, 46, 48)
@pytest.mark.parametrize(
    ("changes", "identity", "message"),
    [
        (
            {"training": {"epochs": 9}},
            {},
            "study `s` was made with other settings: `training.epochs` (2 in the study, 9 here)",
        ),
        (
            {"search": {"batch_size": {"choices": [16, 32]}}},
            {},
            "`search.learning_rate` ({low = 1e-06, high = 0.001, log = True} in the study, none",
        ),
        (
            {
                "search": {
                    "learning_rate": {"low": 1e-6, "high": 1e-3, "log": True},
                    "batch_size": {"choices": [16, 64]},
                }
            },
            {},
            "`search.batch_size` ({log = False, choices = [16, 32]} in the study, ",
        ),
        (
            {"pruner": {"type": "median", "startup_trials": 3}},
            {},
            "`pruner.startup_trials` (10 in the study, 3 here), `pruner.type` (none in the study,",
        ),
        (
            {},
            {"data_sha256": "77ab03de" + "0" * 56},
            "the data differ from those of study `s` (sha256 dddddddd, now 77ab03de)",
        ),
        (
            {},
            {"versions": {"optuna": "4.9.0"}},
            "study `s` was made with other versions: `optuna` (5.0.0 in the study, 4.9.0 here)",
        ),
    ],
)
def test_another_study_under_the_same_name_is_refused_key_by_key(
    storage: str, changes: dict[str, object], identity: dict[str, object], message: str
) -> None:
    with desks(storage, 1) as (desk,):
        desk.take()
        desk.rows("update criteria_workers set ended_at = 1 returning id")
    before = _snapshot(storage)
    with pytest.raises(UsageError) as refused:
        prepare(read_url(storage), identity_of(spec_of(**changes), **identity))
    assert message in refused.value.message
    assert "--name" in refused.value.hint
    assert _snapshot(storage) == before


def test_the_hint_of_a_difference_can_be_typed(storage: str) -> None:
    made = spec_of(search={"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}})
    with desks(storage, 1, spec=made) as (desk,):
        desk.take()
    changed = {**made.to_json(), "search": {"learning_rate": {"low": 0.5, "high": 0.75}}}
    with pytest.raises(UsageError) as refused:
        prepare(read_url(storage), identity_of(type(made).model_validate(changed)))
    shown = refused.value.hint.partition("`")[2].partition("`")[0]
    flag, setting = shlex.split(shown)
    assert flag == "--set"
    key, _, value = setting.partition("=")
    assert key == "search.learning_rate"
    assert tomllib.loads(f"it = {value}")["it"] == {"low": 1e-5, "high": 1e-3, "log": True}


def test_a_study_in_which_nothing_has_happened_takes_new_settings(storage: str) -> None:
    """A mistyped model is found by the first worker, when the study stands in the store."""
    url, other = read_url(storage), spec_of(training={"epochs": 7})
    with desks(storage, 1) as (desk,):
        with pytest.raises(UsageError, match="was made with other settings"):
            prepare(url, identity_of(other))  # its worker may be about to begin
        desk.do(lambda c, _: rows.leave(c, desk.id))
        second = prepare(url, identity_of(other), budget=Budget(trials=3))
        assert second != desk.uid
        stored = desk.rows("select definition, target from criteria_studies")
        assert [json.loads(row[0])["training"]["epochs"] for row in stored] == [7]
        assert stored[0][1] == 3
        late = WorkerRow("late", "s", "cpu", {})
        with pytest.raises(UsageError, match="was made anew with other settings"):
            desk.do(
                lambda c, _: rows.register(c, late, name="w", uid=desk.uid, stale_s=60, shared=True)
            )
    with desks(storage, 1, spec=other) as (desk,):
        desk.take()
        desk.do(lambda c, _: rows.leave(c, desk.id))
        with pytest.raises(UsageError, match=r"`training.epochs` \(7 in the study, 2 here\)"):
            prepare(url, identity_of(spec_of()))


def test_local_settings_and_a_renamed_file_may_differ(storage: str) -> None:
    first = prepare(read_url(storage), identity_of(spec_of()))
    other = spec_of(
        training={"epochs": 2, "eval_batch_size": 8, "vram_headroom": 0.2},
        budget={"trials": 99},
    )
    assert prepare(read_url(storage), identity_of(other)) == first


def test_a_setting_that_the_study_did_not_know_counts_as_its_default(storage: str) -> None:
    with desks(storage, 1) as (desk,):
        desk.take()
    stored = json.loads(str(_rows(storage, "select identity from criteria_studies")[0][0]))
    del stored["training.label_smoothing"]
    engine = make_engine(read_url(storage))
    with engine.begin() as connection:
        connection.execute(
            sa.text("update criteria_studies set identity = :it"), {"it": json.dumps(stored)}
        )
    engine.dispose()
    prepare(read_url(storage), identity_of(spec_of()))
    with pytest.raises(UsageError, match="label_smoothing"):
        prepare(
            read_url(storage),
            identity_of(spec_of(training={"epochs": 2, "label_smoothing": 0.1})),
        )


def test_a_budget_changes_only_when_it_is_asked_for(storage: str) -> None:
    url = read_url(storage)
    prepare(url, identity_of(spec_of()), budget=Budget(trials=7))
    prepare(url, identity_of(spec_of(budget={"trials": 50})))
    assert _rows(storage, "select target from criteria_studies") == [(7,)]
    prepare(url, identity_of(spec_of()), budget=Budget(trials=9))
    assert _rows(storage, "select target from criteria_studies") == [(9,)]


# -- the folder of results -----------------------------------------------------------------------


def test_a_folder_with_results_of_another_study_is_refused(storage: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "s"
    known = claim_folder(folder)
    url = read_url(storage)
    known.keep(prepare(url, identity_of(spec_of()), folder=known))
    assert prepare(url, identity_of(spec_of()), folder=claim_folder(folder))
    (folder / "trial-0").mkdir(mode=0o700)
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("delete from criteria_studies"))
    engine.dispose()
    with pytest.raises(StoreError, match="has no study `s`, but `runs/s` holds 1 trials"):
        prepare(url, identity_of(spec_of()), folder=claim_folder(folder))
    assert _count(storage, "criteria_studies") == 0


@pytest.mark.fault(34)
def test_a_lost_database_file_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    """An SQLite file of 0 bytes is silently a new database: the results say otherwise."""
    url, folder = read_url(f"sqlite:///{tmp_path / 'store.db'}"), tmp_path / "runs" / "s"
    known = claim_folder(folder)
    known.keep(prepare(url, identity_of(spec_of()), folder=known))
    (folder / "trial-0").mkdir(mode=0o700)
    url.path.write_bytes(b"")
    with pytest.raises(StoreError) as refused:
        prepare(url, identity_of(spec_of()), folder=claim_folder(folder))
    assert refused.value.code == "store.other_runs"
    assert url.path.stat().st_size == 0


# -- tables of others ----------------------------------------------------------------------------


@pytest.mark.fault(47)
@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("update alembic_version set version_num = 'v9.9.0.a'", "store.new_optuna"),
        ("update alembic_version set version_num = 'v2.6.0.a'", "store.old_optuna"),
        ("update alembic_version set version_num = 'ae1027a6acf'", "store.foreign_schema"),
        ("update criteria_alembic_version set version_num = '9999'", "store.new_schema"),
    ],
)
def test_other_tables_are_refused_and_left_alone(storage: str, statement: str, code: str) -> None:
    prepare(read_url(storage), identity_of(spec_of()))
    _rows(storage, statement)
    engine = make_engine(read_url(storage))
    with engine.begin() as connection:
        before = read_versions(connection)
    with pytest.raises(StoreError) as refused:
        prepare(read_url(storage), identity_of(spec_of()))
    assert refused.value.code == code
    with engine.begin() as connection:
        assert read_versions(connection) == before
    engine.dispose()
