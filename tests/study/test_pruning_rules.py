"""Definitions whose resource, reports and rungs cannot meet are refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from criteria_cli.study.pruning_rules import max_resource, reported_steps, rungs
from criteria_cli.study.spec import StudySpec


def definition(pruner: dict[str, Any], **sections: Any) -> StudySpec:
    data = {"format": "synthetic"}
    content = {"schema": 1, "name": "s", "data": data, "pruner": pruner, **sections}
    return StudySpec.from_json(content)


HOLDOUT = {"validation": {"scheme": "holdout"}}
THREE = {"validation": {"folds": 3}}


@pytest.mark.parametrize(
    ("pruner", "sections", "reason"),
    [
        ({"max_resource": 5}, THREE, "`pruner.max_resource` is 5 but a trial reports 3 folds"),
        ({"max_resource": 3}, {}, "`pruner.max_resource` is 3 but a trial reports 5 folds"),
        ({}, HOLDOUT, 'a trial reports 1 fold, so `pruner.resource = "fold"` leaves nothing'),
        ({"type": "median"}, HOLDOUT, "leaves nothing to stop"),
        (
            {"resource": "epoch", "max_resource": 100},
            {"training": {"epochs": 100}},
            "a trial reports 500 epochs",
        ),
        (
            {"resource": "epoch"},
            {**HOLDOUT, "training": {"epochs": 1}},
            'nothing can be stopped: use `pruner.type = "none"`',
        ),
        ({"min_resource": 5}, {}, "nothing is pruned after the last: use 1 to 4"),
        ({"patience": {"folds": 5}}, {}, "`pruner.patience.folds` is 5"),
        ({"patience": {"folds": 4, "against": "self"}}, {}, "after fold 5 at the earliest"),
        ({"type": "none", "patience": {"folds": 1}}, HOLDOUT, "but a trial has 1"),
        (
            {"resource": "epoch", "max_resource": 10},
            {**HOLDOUT, "search": {"epochs": {"low": 5, "high": 20}}},
            "a trial reports 20 epochs",
        ),
    ],
)
def test_what_cannot_work_is_refused(
    pruner: dict[str, Any], sections: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        definition(pruner, **sections)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("pruner", "sections"),
    [
        ({"max_resource": 5}, {}),
        ({}, THREE),
        ({"resource": "epoch", "max_resource": 500}, {"training": {"epochs": 100}}),
        ({"resource": "epoch"}, {**HOLDOUT, "training": {"epochs": 10}}),
        ({"type": "none"}, HOLDOUT),
        ({"type": "racing"}, HOLDOUT),
        ({"type": "racing", "max_resource": 5}, THREE),
        ({"patience": {"folds": 4}}, {}),
        ({"patience": {"folds": 3, "against": "self"}}, {}),
    ],
)
def test_what_can_work_is_taken(pruner: dict[str, Any], sections: dict[str, Any]) -> None:
    definition(pruner, **sections)


def test_rungs_of_the_spec_stand_at_folds_one_and_three() -> None:
    spec = definition({})
    assert (rungs(spec, 0), rungs(spec, 1)) == ((1, 3), (3,))
    assert max_resource(spec) == reported_steps(spec) == 5


def test_no_rung_stands_at_the_last_step() -> None:
    spec = definition({}, **THREE)
    assert (rungs(spec, 0), rungs(spec, 1)) == ((1,), ())
