"""The report opens offline, shows every section, and escapes what the store says."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from criteria_cli.hpo import figures, fold_figures, paper, work_figures
from criteria_cli.hpo.paper import pictures
from criteria_cli.hpo.plots import PLOTS
from criteria_cli.hpo.report_facts import (
    AttemptFact,
    CutFact,
    EpochFact,
    FoldFact,
    StudyRecord,
)

SUPPORT = Path(__file__).parents[1] / "support"
STUDY = """schema = 1
name = "s"
[data]
format = "synthetic"
posts = 30
[validation]
folds = 3
[training]
epochs = 2
[search]
learning_rate = { low = 1e-6, high = 1e-3, log = true }
batch_size = { choices = [16, 32] }
[pruner]
type = "hyperband"
startup_trials = 4
[budget]
trials = 10
"""
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, run_in: Run) -> Path:
    """A folder with a finished study whose worker has an evil name, and its report."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "s.toml").write_text(STUDY)
    ran = run_in(
        folder,
        "hpo",
        "s.toml",
        "--device",
        "cpu",
        env={
            "CRITERIA_TESTING": "1",
            "CRITERIA_TRAINER": str(SUPPORT / "synthetic_trainer.py"),
            "PYTHONPATH": str(SUPPORT),
        },
    )
    assert ran.code == 0, ran.err
    connection = sqlite3.connect(folder / "criteria.db")
    with connection:
        connection.execute("update criteria_attempts set worker_name = '<script>evil()</script>'")
    connection.close()
    done = run_in(folder, "report", "s")
    assert (done.code, done.out) == (0, "runs/s/report.html\n")
    return folder


def test_it_is_one_private_file_that_may_ask_nobody(reported: Path) -> None:
    path = reported / "runs" / "s" / "report.html"
    assert path.stat().st_mode & 0o777 == 0o600
    page = path.read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)\s*=", page)
    assert "<script>evil()" not in page
    for plot in PLOTS:
        assert f'id="{plot.key}"' in page
    for key in ("history", "importance", "parallel", "slices", "curves", "spread", "timeline"):
        assert f'id="plot-{key}"' in page
    assert "learning_rate" in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here to look with")
def test_a_browser_draws_it(reported: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path}", "--virtual-time-budget=5000", "--enable-logging=stderr",
            "--dump-dom", (reported / "runs" / "s" / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )  # fmt: skip
    assert len(re.findall(r'<svg class="main-svg"', done.stdout)) >= 8
    assert "Refused to" not in done.stderr
    assert "Uncaught" not in done.stderr


def test_a_file_of_ones_own_is_not_replaced(reported: Path, run_in: Run) -> None:
    first = run_in(reported, "report", "s", "--out", "mine.html")
    assert first.code == 0
    again = run_in(reported, "report", "s", "--out", "mine.html")
    assert again.code == 2
    assert "give `--overwrite`" in again.err
    assert run_in(reported, "report", "s", "--out", "mine.html", "--overwrite").code == 0
    assert run_in(reported, "report", "s").code == 0, "its own place may be renewed"


def test_figures_for_a_paper(reported: Path, run_in: Run) -> None:
    done = run_in(reported, "report", "s", "--format", "png", "--out", "figures")
    assert done.code == 0, done.err
    for line in done.out.split():
        assert (reported / line).read_bytes().startswith(b"\x89PNG")
    assert len(done.out.split()) >= 4


def test_tensorboard_files_hold_each_trials_curve(reported: Path, run_in: Run) -> None:
    from tensorboardX.proto.event_pb2 import Event

    done = run_in(reported, "report", "s", "--format", "tensorboard", "--out", "tensorboard")
    assert done.code == 0, done.err
    found = {}
    for path in (reported / "tensorboard" / "trial-0").glob("events.*"):
        assert path.stat().st_mode & 0o077 == 0
        content, place = path.read_bytes(), 0
        while place < len(content):  # a length, its checksum, the event, its checksum
            size = int.from_bytes(content[place : place + 8], "little")
            event = Event.FromString(content[place + 12 : place + 12 + size])
            place += 16 + size
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    assert {("f1/fold-1", 1), ("f1/fold-3", 2), ("f1/by-fold", 3), ("f1/trial", 0)} <= set(found)


def test_a_folder_with_anything_else_in_it_is_not_removed(reported: Path, run_in: Run) -> None:
    mine = reported / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    write = ("report", "s", "--format", "tensorboard", "--overwrite", "--out")
    done = run_in(reported, *write, "mine")
    assert done.code == 2
    assert "is no folder that a report wrote" in done.err
    (reported / "link").symlink_to(mine)
    assert run_in(reported, *write, "link").code == 2
    assert (mine / "thesis.tex").exists()
    for _ in range(2):
        assert run_in(reported, *write, "curves").code == 0, "its own may be replaced"


def test_a_page_goes_where_no_study_was_run(reported: Path, run_in: Run, tmp_path: Path) -> None:
    done = run_in(tmp_path, "report", "s", "--storage", f"sqlite:///{reported}/criteria.db")
    assert done.code == 0, done.err
    assert (tmp_path / "runs" / "s" / "report.html").stat().st_mode & 0o077 == 0


def test_a_page_that_cannot_be_written_leaves_nothing(reported: Path, run_in: Run) -> None:
    full = (
        "import os\n"
        "def replace(self, target): raise OSError(28, 'No space left on device')\n"
        "import pathlib; pathlib.Path.replace = replace"
    )
    done = run_in(reported, "report", "s", "--out", "full.html", prelude=full)
    assert done.code == 3, done.err
    assert "cannot write `full.html`: no space left on device" in done.err
    assert not list(reported.glob("*full.html*"))


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
@pytest.mark.parametrize("lookalike", [False, True], ids=["nothing", "a folder of its name"])
def test_a_tracker_that_is_not_installed_is_named(
    reported: Path, run_in: Run, tracker: str, lookalike: bool
) -> None:
    out = f"{tracker}-{lookalike}"
    empty = "import types, sys; sys.modules['{0}'] = types.ModuleType('{0}')"
    gone = "import sys; sys.modules['{0}'] = None"
    done = run_in(
        reported, "report", "s", "--format", tracker, "--out", out,
        prelude=(empty if lookalike else gone).format(tracker),
    )  # fmt: skip
    assert done.code == 3
    assert f"pip install 'criteria[{tracker}]'" in done.err
    assert not (reported / out).exists()


def test_an_unknown_study_is_named(reported: Path, run_in: Run) -> None:
    done = run_in(reported, "report", "nope")
    assert done.code == 2
    assert "no study `nope`" in done.err


# -- the plots, from facts -------------------------------------------------------------------


def record(trials: int = 6) -> StudyRecord:
    study = optuna.create_study(direction="maximize")
    space = {"learning_rate": optuna.distributions.FloatDistribution(1e-6, 1e-3, log=True)}
    for number in range(trials):
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE,
                value=0.5 + 0.01 * number,
                params={"learning_rate": 1e-6 * (number + 1)},
                distributions=space,
            )
        )
    folds = tuple(
        FoldFact(
            trial=number,
            fold=fold,
            score=0.5 + 0.01 * number + 0.001 * fold,
            best_epoch=2,
            epochs=3,
            per_criterion={"A.1": {"f1": 0.6 + 0.1 * fold}, "A.2": {"f1": 0.4}},
            costs={"train_s": 2.0, "eval_s": 0.5, "examples_per_s": 99.0},
            reliability=((80, 0.05, 4), (20, 0.75, 10)),
        )
        for number in range(trials)
        for fold in (1, 2)
    )
    epochs = tuple(
        EpochFact(number, fold, epoch, 0.1 * epoch, 1.0)
        for number in range(trials)
        for fold in (1, 2)
        for epoch in (1, 2, 3)
    )
    return StudyRecord(
        definition={"validation": {"metric": "f1"}},
        study=study,
        folds=folds,
        epochs=epochs,
        attempts=(AttemptFact(0, "w", 0.0, 9.0, "complete"), AttemptFact(1, "w", 9.0, None, "")),
        cuts=(CutFact(7, 1, None, "hyperband"), CutFact(8, 2, 3, "racing")),
    )


def test_every_plot_is_drawn_from_a_full_record() -> None:
    full = record()
    assert all(plot.draw(full) is not None for plot in PLOTS)
    assert {key for key, _ in pictures(full)} == {
        "history", "importance", "curves", "spread", "criteria", "calibration", "slices",
        "pruning", "timeline", "cost",
    }  # fmt: skip


def with_parameters(full: StudyRecord, evil: str) -> optuna.Study:
    """The record's study with a parameter of this name, and one with this value."""
    trials = [
        optuna.trial.create_trial(
            state=trial.state,
            value=trial.value,
            params={evil: trial.params["learning_rate"], "which": evil},
            distributions={
                evil: trial.distributions["learning_rate"],
                "which": optuna.distributions.CategoricalDistribution([evil, "other"]),
            },
        )
        for trial in full.study.trials
    ]
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    return study


def test_names_of_another_hand_are_drawn_as_they_are(recwarn: pytest.WarningsRecorder) -> None:
    evil = "$\\frac$\x07<\u200b"
    full = record()
    study = with_parameters(full, evil)
    fold = replace(full.folds[-1], per_criterion={evil: {"f1": 0.5}}, costs={f"{evil}_s": 1.0})
    bad = replace(
        full,
        study=study,
        folds=(*full.folds[:-1], fold),
        attempts=(AttemptFact(0, evil, 0.0, 9.0, evil),),
        cuts=(CutFact(7, 1, None, evil),),
    )
    assert [key for key, _ in pictures(bad)] == [key for key, _ in pictures(full)]
    assert list(recwarn) == []


@pytest.mark.parametrize("draw", [figures.importance, figures.parallel, figures.slices])
def test_a_parameter_is_no_link_on_an_axis(draw: Any) -> None:
    full = record()
    evil = '<a href="https://evil.example">rate</a>'
    drawn = draw(replace(full, study=with_parameters(full, evil))).to_json()
    assert "href" in drawn  # it is there, and
    assert "<a" not in drawn.encode().decode("unicode_escape")


def test_a_parameter_of_a_store_is_no_link_on_the_page(
    reported: Path, tmp_path: Path, run_in: Run
) -> None:
    evil = '<a href="https://evil.example">rate</a>'
    shutil.copy(reported / "criteria.db", tmp_path)
    with sqlite3.connect(tmp_path / "criteria.db") as connection:
        connection.execute(
            "update trial_params set param_name = ? where param_name = 'learning_rate'", (evil,)
        )
    connection.close()
    assert run_in(tmp_path, "report", "s", "--out", "evil.html").code == 0
    page = (tmp_path / "evil.html").read_text()
    assert page.count("\\u0026lt;a href") + page.count("&lt;a href") > 3
    assert "\\u003ca href" not in page
    assert evil not in page


def test_a_name_is_neither_a_formula_nor_a_page() -> None:
    assert paper._plain("a$b$\x07 &lt;i&gt;") == r"a\$b\$ <i>"


def test_no_plot_needs_more_than_the_study_has() -> None:
    empty = replace(record(0), folds=(), epochs=(), attempts=(), cuts=())
    assert all(plot.draw(empty) is None for plot in PLOTS)
    assert list(pictures(empty)) == []
    for trials in (1, 2, 3):
        for plot in PLOTS:
            plot.draw(record(trials))


def test_bars_show_the_mean_and_reach_from_lowest_to_highest() -> None:
    bars = fold_figures.criteria(record()).data[0]
    assert list(bars.x) == ["A.1", "A.2"]
    assert bars.y == pytest.approx((0.75, 0.4))
    assert bars.error_y.array == pytest.approx((0.05, 0.0))
    assert bars.error_y.arrayminus == pytest.approx((0.05, 0.0))


def test_probabilities_are_pooled_over_the_best_trials_folds() -> None:
    bins = fold_figures.reliability(record())
    assert bins == [(pytest.approx(0.05), 0.05, 160), (pytest.approx(0.75), 0.5, 40)]
    assert fold_figures.calibration_error(bins) == pytest.approx(0.05)
    old = replace(record(), folds=tuple(replace(fold, reliability=()) for fold in record().folds))
    assert fold_figures.calibration(old) is None, "a trainer before this one reported none"


def test_time_is_summed_over_folds_and_rates_are_not() -> None:
    bars = work_figures.cost(record()).data[0]
    assert dict(zip(bars.x, bars.y, strict=True)) == {"train": 24.0, "eval": 6.0}
