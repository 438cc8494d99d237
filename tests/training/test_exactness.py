"""However a batch is split, its gradient is the whole batch's (traps 20 to 22).

The negative control is the usual `loss / steps`: the mean of each micro-batch divided by their
number.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from split_batches import (
    BATCH,
    LONGEST,
    LOSSES,
    Batch,
    difference,
    gradient,
    gradient_of,
    loss_of,
    mean_of_means,
    resident,
    runs,
    splits,
    step_of,
)

from criteria_cli.training.batches import MicroBatch
from criteria_cli.training.resident import ResidentModel

PLAIN = LOSSES["plain"]


@pytest.fixture(scope="module", params=["auto", "reference"])
def model(request: pytest.FixtureRequest) -> ResidentModel:
    return resident(request.param)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_split_has_the_gradient_of_the_whole_batch(model: ResidentModel, loss: str) -> None:
    batch, step, by = Batch(), step_of(model, LOSSES[loss]), loss_of(LOSSES[loss])
    whole = gradient_of(step, by, batch, runs(np.arange(BATCH), [BATCH]))
    assert float(whole.norm()) > 1e-3
    for name, plan in splits(batch).items():
        assert sum(len(part) for part in plan) == BATCH
        assert difference(gradient_of(step, by, batch, plan), whole) <= 1e-12, name


def test_the_usual_way_is_off(model: ResidentModel) -> None:
    batch = Batch()
    for loss, names in (("plain", ("ragged", "length-sorted")), ("weighted", ("equal",))):
        step, by = step_of(model, LOSSES[loss]), loss_of(LOSSES[loss])
        whole = gradient_of(step, by, batch, runs(np.arange(BATCH), [BATCH]))
        for name in names:
            plan = splits(batch)[name]
            assert difference(mean_of_means(step, by, batch, plan), whole) > 1e-2, name


def test_the_last_batch_keeps_its_own_denominator(model: ResidentModel) -> None:
    last, step, loss = Batch(size=13, seed=3), step_of(model, PLAIN), loss_of(PLAIN)
    whole = gradient_of(step, loss, last, runs(np.arange(13), [13]))
    split = gradient_of(step, loss, last, runs(np.arange(13), [5, 5, 3]))
    assert difference(split, whole) <= 1e-12
    for parameter in step.parameters:
        parameter.grad = None
    tokens, labels = last.part(MicroBatch(np.arange(13), LONGEST))
    loss(step.model.scores(tokens), labels).mean().backward()
    assert difference(gradient(step), whole) <= 1e-12


def test_padding_changes_no_score(model: ResidentModel) -> None:
    step_of(model, PLAIN)
    batch = Batch()
    model.module.eval()
    with torch.no_grad():
        whole = model.scores(batch.part(MicroBatch(np.arange(BATCH), LONGEST))[0])
        for plan in splits(batch).values():
            for micro_batch in plan:
                scores = model.scores(batch.part(micro_batch)[0])
                assert float((scores - whole[micro_batch.rows]).abs().max()) <= 1e-13
