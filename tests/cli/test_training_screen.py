"""What `criteria train` says at its end, and while it works."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from criteria_cli.cli.signals import Stopping
from criteria_cli.cli.training_display import TrainingLines
from criteria_cli.cli.training_screen import document, model_screen
from criteria_cli.study.final import TrainedModel, TrainOrder
from criteria_cli.study.spec import StudySpec
from criteria_cli.study.trial import FoldReport

METRICS = dict.fromkeys(
    ("f1", "macro_f1", "precision", "recall", "auroc", "average_precision"), 0.5
)


def model(**metrics: Any) -> TrainedModel:
    return TrainedModel(
        model_dir=Path("model"),
        metrics={
            "nested": METRICS | {"all_positive_f1": 0.18},
            "optimistic": METRICS,
            "intervals": {name: [0.4, 0.6] for name in METRICS},
            "collapsed_folds": [],
            "evidence": None,
            **metrics,
        },
        per_criterion={"A.1": METRICS | {"positives": 12, "intervals": {"f1": [0.1, 0.9]}}},
        folds=({"fold": 1, "augmentation": {}}, {"fold": 2, "augmentation": {}}),
        seconds=61.0,
        report={"data": {"cut_share": 0.0}},
    )


def text(trained: TrainedModel, width: int | None = 100) -> str:
    return "\n".join(item.text for item in model_screen(trained, width))


def test_a_plain_result_has_no_remarks() -> None:
    shown = text(model())
    assert "every pair positive has F1 0.180" in shown
    for word in ("sentence", "rewritten", "cut", "learnt nothing"):
        assert word not in shown


def test_a_model_that_learnt_nothing_is_named() -> None:
    assert "in 1 fold of 2 the model says the same of every pair" in text(
        model(collapsed_folds=[2])
    )


def test_evidence_stands_beside_chance() -> None:
    evidence = {"precision_at_1": 0.5, "chance": 0.125, "pairs": 80}
    assert (
        "of 80 positive pairs the heaviest sentence is an annotated one in 50.0%, by chance in "
        in (text(model(evidence=evidence), None))
    )


def test_what_was_rewritten_and_cut_is_counted() -> None:
    trained = replace(
        model(),
        folds=tuple(
            {"fold": fold, "augmentation": {"augmentations_applied": 20 + fold}} for fold in (1, 2)
        ),
        report={"data": {"cut_share": 0.125}},
    )
    assert "43 times a rewritten post stood in" in text(trained)
    assert "12.5% of the pairs were cut to fit" in text(trained)
    assert json.loads(json.dumps(document(trained)))["cut_share"] == 0.125


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_it_fits(width: int) -> None:
    evidence = {"precision_at_1": 0.5, "chance": 0.125, "pairs": 80}
    shown = text(model(evidence=evidence, collapsed_folds=[1]), width)
    assert all(len(item) <= width for item in shown.splitlines())


def test_a_fold_says_how_often_a_post_was_rewritten() -> None:
    spec = StudySpec.model_validate({"schema": 1, "name": "x", "data": {"format": "synthetic"}})
    order = TrainOrder(spec, spec.hyperparameters(), Path(), Path("runs/x"), Path("model"))
    stream = io.StringIO()
    lines = TrainingLines(order, Stopping(), stream)
    lines(FoldReport(1, 0.5, 3, 4))
    lines(FoldReport(2, 0.5, 3, 4, costs={"augmentations_applied": 57.0}))
    assert stream.getvalue().splitlines() == [
        "fold 1/5  f1 0.5000, best epoch 3 of 4",
        "fold 2/5  f1 0.5000, best epoch 3 of 4, 57 times a rewritten post",
    ]
