"""The Python API on a study that was really searched."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from criteria_cli import Predictor, load_study, train
from criteria_cli.api import Study
from criteria_cli.errors import Saved, UsageError
from criteria_cli.study.final import TrainedModel
from criteria_cli.study.trial import Event, FoldReport, Verdict

DEFINITION = """
schema = 1
name = "little"

[data]
format = "synthetic"
posts = 40

[model]
name = "builtin:tiny-deberta-v2"
max_length = 64

[validation]
folds = 2

[training]
epochs = 1
batch_size = 16
precision = "fp32"

[search]
learning_rate = { low = 1e-4, high = 3e-3, log = true }

[pruner]
type = "none"

[budget]
trials = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder where a search has ended; the working directory while the module runs."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "little.toml").write_text(DEFINITION)
    subprocess.run(
        [sys.executable, "-m", "criteria_cli", "hpo", "little.toml", "--device", "cpu"],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True,
    )  # fmt: skip
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return load_study("little")


def test_a_study_tells_of_its_trials(study: Study) -> None:
    trials = study.trials()
    assert [(trial.number, trial.state) for trial in trials] == [(0, "complete"), (1, "complete")]
    for trial in trials:
        assert set(trial.params) == {"learning_rate"}
        assert trial.value == pytest.approx(sum(trial.fold_scores) / 2)
    best = study.best()
    assert best.value == max(trial.value or 0.0 for trial in trials)
    assert study.status().trials.complete == 2
    assert study.definition().validation.folds == 2
    assert repr(study) == "Study('little')"


def test_a_study_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="small"):
        load_study("small")


def test_its_best_trial_becomes_a_model(study: Study, folder: Path) -> None:
    heard: list[Event] = []

    def report(event: Event) -> Verdict:
        heard.append(event)
        return Verdict.CONTINUE

    model = train("little.toml", trial="best", out="taken", device="cpu", threads=1, report=report)
    best = study.best()
    assert model.report["study"]["trial"] == best.number
    assert model.report["hyperparameters"]["training"]["learning_rate"] == pytest.approx(
        best.params["learning_rate"]
    )
    assert model.metrics["search"] == pytest.approx(best.value)
    assert "by the search's scores on the other folds" in model.report["estimates"]["nested_means"]
    assert [event.fold for event in heard if isinstance(event, FoldReport)] == [1, 2, 3]
    predictions = Predictor(model.model_dir, device="cpu").predict({"p": "I cannot sleep."})
    assert [each.criterion_id for each in predictions] == [f"A.{n}" for n in range(1, 10)]


def test_the_definitions_own_settings_and_a_stop(folder: Path) -> None:
    with pytest.raises(Saved):
        own(report=lambda event: Verdict.YIELD)
    model = own()
    assert model.report["study"]["trial"] is None
    assert model.metrics["search"] is None


def own(**more: Any) -> TrainedModel:
    settings = ["training.learning_rate=1e-3"]
    return train("little.toml", settings=settings, out="own", device="cpu", threads=1, **more)


def test_a_setting_that_the_trial_has_sampled_is_refused(folder: Path) -> None:
    """As the command refuses it, and before anything is trained."""
    with pytest.raises(UsageError, match=r"sets `training.learning_rate`, but every trial"):
        train("little.toml", trial="best", settings=["training.learning_rate=1e-3"], out="x")
    assert not Path("x").exists()
