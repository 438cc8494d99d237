"""One tiny study, trained once per process, for everything that needs a model directory."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from criteria_cli.data.formats import load_corpus
from criteria_cli.study.final import TrainedModel, TrainOrder
from criteria_cli.study.spec import StudySpec
from criteria_cli.study.trial import Event, Verdict


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def toy_spec(**training: object) -> StudySpec:
    """Forty synthetic posts, two folds, one epoch."""
    settings = {
        "epochs": 1,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "precision": "fp32",
    }
    return StudySpec.model_validate(
        {
            "schema": 1,
            "name": "toy",
            "data": {"format": "synthetic", "posts": 40},
            "model": {"name": "builtin:tiny-deberta-v2", "max_length": 64},
            "validation": {"folds": 2},
            "training": settings | training,
        }
    )


def toy_order(folder: Path, spec: StudySpec | None = None) -> TrainOrder:
    spec = spec or toy_spec()
    return TrainOrder(
        spec=spec,
        hyperparameters=spec.hyperparameters(),
        base=folder,
        directory=folder / "runs" / spec.name,
        out=folder / "model",
        device="cpu",
    )


@dataclass(frozen=True)
class Trained:
    """What a training made and said."""

    order: TrainOrder
    model: TrainedModel
    events: tuple[Event, ...]

    @property
    def directory(self) -> Path:
        return self.model.model_dir


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from criteria_cli.training.final import train

    events: list[Event] = []

    def report(event: Event) -> Verdict:
        events.append(event)
        return Verdict.CONTINUE

    order = toy_order(tmp_path_factory.mktemp("toy"))
    return Trained(order, train(order, report), tuple(events))


@pytest.fixture(scope="session")
def model_dir(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with thresholds at the middle of its scores: it calls half of all pairs
    positive and is sure of some, which one epoch of training does not teach it."""
    from criteria_cli.training.predict import Predictor

    directory = tmp_path_factory.mktemp("deciding") / "model"
    shutil.copytree(trained.directory, directory)
    texts = load_corpus(trained.order.spec.data, Path()).texts
    scores = np.sort(Predictor(directory, device="cpu").scores(texts).ravel())
    record = json.loads((directory / "criteria.json").read_text())
    middle, margin = scores[len(scores) // 2], scores[len(scores) * 5 // 8]
    record["calibration"] |= {
        "temperature": 0.5,
        "bias": 0.1,
        "threshold": float(1 / (1 + np.exp(-(middle / 0.5 + 0.1)))),
        "thresholds": {},
        "abstain_margin": float((margin - middle) / 0.5),
    }
    (directory / "criteria.json").write_text(json.dumps(record))
    return directory


def elsewhere(order: TrainOrder, folder: Path) -> TrainOrder:
    """The same order, nothing of it done."""
    return replace(order, directory=folder / "runs", out=folder / "model")
