"""The same small trial on simulated cards: what each step was, and what came of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from criteria_cli.study.messages import Learned, TrainerSetup
from criteria_cli.study.spec import StudySpec
from criteria_cli.study.trial import Event, FoldReport, Verdict
from criteria_cli.training.fitting import fit_memory
from criteria_cli.training.keys import memory_key
from criteria_cli.training.measuring import StepMeter
from criteria_cli.training.memory import cap_bytes
from criteria_cli.training.model import encoder_from_config
from criteria_cli.training.opening import open_device
from criteria_cli.training.probe import ProbeSettings
from criteria_cli.training.simulated import SimulatedCard
from criteria_cli.training.step import TrainingStep
from criteria_cli.training.trainer import Trainer

SCALE = 800
"""Bytes that each real byte stands for: 8 GiB then hold a few pairs of the small model."""
SMALL, LARGE = f"simulated:8GiB,scale={SCALE}", f"simulated:48GiB,scale={SCALE}"
BATCH = 16


def study(**training: object) -> StudySpec:
    return StudySpec.model_validate(
        {
            "schema": 1,
            "name": "cards",
            "data": {"format": "synthetic", "posts": 20},
            "model": {
                "name": "builtin:tiny-deberta-v2",
                "max_length": 64,
                "hidden_dropout": 0.0,
                "attention_dropout": 0.0,
                "classifier_dropout": 0.0,
            },
            "validation": {"scheme": "holdout"},
            "pruner": {"type": "none"},
            "training": {
                "epochs": 2,
                "batch_size": BATCH,
                "learning_rate": 1e-3,
                "precision": "fp32",
            }
            | training,
        }
    )


def measured(spec: StudySpec, device: str) -> dict[str, dict[str, object]]:
    """The memory model of a card, as the store would give it."""
    card = open_device(device)
    settings = ProbeSettings.of(spec, device)
    scoring = encoder_from_config(settings.model)
    with card.use():
        meter = StepMeter(scoring, card, "fp32", settings.model, settings.training, 2048)

        def cap() -> int:
            headroom = card.total_bytes() // 10
            return cap_bytes(card.free_bytes(), card.reserved_bytes(), headroom)

        fit = fit_memory(meter, settings.model.max_length, cap, allocator=card.allocator)
    key = memory_key(card, settings.model, settings.training, "fp32")
    return {key: fit.model.to_json()}


@dataclass
class Trained:
    rates: list[float]
    """The learning rate of each step."""
    sizes: list[list[int]]
    """Micro-batches of each step."""
    parameters: Tensor
    scores: list[float]
    """F1 of each fold."""
    ooms: int
    learned: list[Learned]
    limit: int
    """Rows of a training micro-batch at full length, at the end."""


def train(
    spec: StudySpec,
    device: str,
    known: Mapping[str, dict[str, object]],
    meanwhile: Callable[[SimulatedCard, Event], None] = lambda *_: None,
) -> Trained:
    """Train the study's own settings on a card, and say what happened.

    Args:
        meanwhile: called with the card and each event; the trainer waits for it.
    """
    rates: list[float] = []
    sizes: list[list[int]] = []
    scores: list[float] = []
    learned: list[Learned] = []
    accumulate, update = TrainingStep.accumulate, TrainingStep.update

    def watched_accumulate(self: TrainingStep, micro_batches: Any, weight: float) -> Tensor:
        sizes.append([])

        def noting() -> Iterator[Any]:
            for tokens, labels in micro_batches:
                sizes[-1].append(len(labels))
                yield tokens, labels

        return accumulate(self, noting(), weight)

    def watched_update(self: TrainingStep, rate: float) -> None:
        rates.append(rate)
        update(self, rate)

    def report(event: Event) -> Verdict:
        meanwhile(card, event)
        if isinstance(event, FoldReport):
            scores.append(event.score)
        return Verdict.CONTINUE

    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch.object(TrainingStep, "accumulate", watched_accumulate),
        mock.patch.object(TrainingStep, "update", watched_update),
    ):
        setup = TrainerSetup(spec, Path(name), Path(name), device, 1, memory=dict(known))
        trainer = Trainer(setup, learned.append)
        card = trainer.device
        assert isinstance(card, SimulatedCard)
        card.reset_peak()
        trainer.run_trial(spec, spec.hyperparameters(), report=report)
        model = trainer.model(spec.model)
        return Trained(
            rates,
            sizes,
            torch.cat([p.detach().flatten() for p in model.parameters.values()]).clone(),
            scores,
            card.peak().ooms,
            learned,
            model.planner.limits.max_rows(64),
        )


def difference(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())
