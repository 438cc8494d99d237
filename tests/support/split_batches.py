"""A batch, the ways to split it, and the gradient of each way. In float64, without dropout, so that
a difference is a mistake and not rounding."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from criteria_cli.study.spec import AugmentationSpec, Hyperparameters, ModelSpec, TrainingSpec
from criteria_cli.training.attention import ReferenceForward
from criteria_cli.training.batches import (
    MicroBatch,
    Planner,
    balanced_split,
    cheapest,
    padded_length,
)
from criteria_cli.training.costs import PhaseClock
from criteria_cli.training.devices import CpuDevice
from criteria_cli.training.losses import PairLoss, build_loss
from criteria_cli.training.memory import Bound, Curve, whole_batches
from criteria_cli.training.model import Encoder, encoder_from_config
from criteria_cli.training.resident import ResidentModel
from criteria_cli.training.step import TrainingStep
from criteria_cli.training.token_pairs import TokenBatch

BATCH, LONGEST = 64, 48
MODEL = ModelSpec(
    name="builtin:tiny-deberta-v2",
    max_length=LONGEST,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    classifier_dropout=0.0,
)
LOSSES = {
    "plain": TrainingSpec(),
    "smoothed": TrainingSpec(label_smoothing=0.1),
    "weighted": TrainingSpec(positive_weight=3.0),
    "balanced": TrainingSpec(loss="class_balanced"),
    "focal": TrainingSpec(loss="focal", positive_weight=3.0),
}


class Batch:
    """Made-up pairs of many lengths."""

    def __init__(self, size: int = BATCH, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.lengths = random.integers(6, LONGEST + 1, size)
        self.labels = torch.from_numpy((random.random(size) < 0.2).astype(np.float64))
        self.ids = random.integers(5, 2048, (size, LONGEST), dtype=np.int64)
        self.ids[np.arange(LONGEST) >= self.lengths[:, None]] = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def part(self, micro_batch: MicroBatch) -> tuple[TokenBatch, Tensor]:
        rows = micro_batch.rows
        tokens = TokenBatch(self.ids[rows, : micro_batch.length], self.lengths[rows], None)
        return tokens, self.labels[rows]


def hyperparameters_of(training: TrainingSpec, attention: str) -> Hyperparameters:
    model = MODEL.model_copy(update={"attention": attention})
    return Hyperparameters(model, training, AugmentationSpec())


def resident(attention: str) -> ResidentModel:
    scoring = encoder_from_config(MODEL)
    scoring.module.double()
    planner = Planner(whole_batches(LONGEST))
    model = ResidentModel(cast(Encoder, scoring), CpuDevice(), planner, "fp32")
    model.begin(hyperparameters_of(LOSSES["plain"], attention))
    return model


def step_of(model: ResidentModel, training: TrainingSpec) -> TrainingStep:
    attention = "reference" if isinstance(model.forward, ReferenceForward) else "auto"
    optimizer = model.begin(hyperparameters_of(training, attention))
    model.module.train()
    clock = PhaseClock(torch.device("cpu"))
    return TrainingStep(model, optimizer, training, loss_of(training), clock)


def gradient(step: TrainingStep) -> Tensor:
    return torch.cat([p.grad.flatten() for p in step.parameters if p.grad is not None])


def loss_of(training: TrainingSpec) -> PairLoss:
    """On a fold of 20 positive and 180 negative pairs."""
    return build_loss(training, 20, 180)


def gradient_of(
    step: TrainingStep, loss: PairLoss, batch: Batch, plan: Sequence[MicroBatch]
) -> Tensor:
    """As training has it: sums over micro-batches, divided by the whole batch's weight."""
    for parameter in step.parameters:
        parameter.grad = None
    weight = float(loss.weights(batch.labels).sum())
    step.accumulate((batch.part(part) for part in plan), weight)
    return gradient(step)


def runs(order: NDArray[np.intp], sizes: Sequence[int], lengths: Any = None) -> list[MicroBatch]:
    """Consecutive runs of `order`, padded whole or, given lengths, to their own longest."""
    plan = []
    for start, end in itertools.pairwise(itertools.accumulate(sizes, initial=0)):
        rows = order[start:end]
        width = LONGEST if lengths is None else padded_length(int(lengths[rows].max()), LONGEST)
        plan.append(MicroBatch(rows, width))
    return plan


def splits(batch: Batch) -> dict[str, list[MicroBatch]]:
    order = np.arange(len(batch))
    by_length = np.argsort(-batch.lengths, kind="stable")
    tight = Bound(Curve(token=1.0), Curve(base=5.0, token=1.0), 700.0, 4, LONGEST)
    return {
        "ragged": runs(order, [23, 23, 18]),
        "balanced": runs(order, balanced_split(len(batch), 23)),
        "equal": runs(order, balanced_split(len(batch), 16)),
        "length-sorted": runs(by_length, [9, 12, 20, 23], batch.lengths),
        "planned": cheapest(batch.lengths, tight),
        "one by one": runs(by_length, [1] * len(batch), batch.lengths),
    }


def difference(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


def mean_of_means(step: TrainingStep, loss: PairLoss, batch: Batch, plan: Any) -> Tensor:
    """What most trainers do: each micro-batch's own mean, divided by their number."""
    for parameter in step.parameters:
        parameter.grad = None
    for micro_batch in plan:
        tokens, labels = batch.part(micro_batch)
        mean = loss(step.model.scores(tokens), labels).sum() / loss.weights(labels).sum()
        (mean / len(plan)).backward()
    return gradient(step)
