"""The same trial on a small and on a large card is the same trial (traps 20 to 24)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from criteria_cli.errors import TrialFailed
from criteria_cli.study.messages import Learned, TrainerSetup
from criteria_cli.study.spec import StudySpec
from criteria_cli.study.trial import Event, FoldReport, Verdict
from criteria_cli.training.devices import open_device
from criteria_cli.training.fitting import fit_memory
from criteria_cli.training.keys import memory_key
from criteria_cli.training.measuring import StepMeter
from criteria_cli.training.memory import MemoryModel, cap_bytes
from criteria_cli.training.model import encoder_from_config
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
    sizes: list[list[int]]
    """Micro-batches of each step."""
    parameters: Tensor
    scores: list[float]
    ooms: int
    learned: list[Learned]
    limit: int


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Trains the study's only fold and says what happened."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rates: list[float] = []
    sizes: list[list[int]] = []
    accumulate, update = TrainingStep.accumulate, TrainingStep.update

    def watched_accumulate(self: TrainingStep, micro_batches: object, examples: int) -> Tensor:
        sizes.append([])

        def noting() -> Iterator[object]:
            for tokens, labels in micro_batches:  # type: ignore[attr-defined]
                sizes[-1].append(len(labels))
                yield tokens, labels

        return accumulate(self, noting(), examples)  # type: ignore[arg-type]

    def watched_update(self: TrainingStep, rate: float) -> None:
        rates.append(rate)
        update(self, rate)

    monkeypatch.setattr(TrainingStep, "accumulate", watched_accumulate)
    monkeypatch.setattr(TrainingStep, "update", watched_update)

    def train(spec: StudySpec, device: str, known: dict[str, dict[str, object]]) -> Trained:
        rates.clear()
        sizes.clear()
        scores: list[float] = []
        learned: list[Learned] = []
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()

        def report(event: Event) -> Verdict:
            if isinstance(event, FoldReport):
                scores.append(event.score)
            return Verdict.CONTINUE

        setup = TrainerSetup(spec, folder, folder, device, 1, memory=known)
        trainer = Trainer(setup, learned.append)
        card = trainer.device
        assert isinstance(card, SimulatedCard)
        card.reset_peak()
        trainer.run_trial(spec, spec.hyperparameters(), report=report)
        model = trainer.model(spec.model)
        return Trained(
            list(rates),
            [list(step) for step in sizes],
            torch.cat([p.detach().flatten() for p in model.parameters.values()]).clone(),
            scores,
            card.peak().ooms,
            learned,
            model.planner.limits.max_rows(64),
        )

    return train


def difference(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


def test_two_cards_train_the_same(trained) -> None:  # type: ignore[no-untyped-def]
    spec = study()
    small = trained(spec, SMALL, measured(spec, SMALL))
    large = trained(spec, LARGE, measured(spec, LARGE))
    assert small.limit < BATCH < large.limit
    assert max(len(step) for step in small.sizes) > max(len(step) for step in large.sizes)
    for one in (small, large):
        assert one.ooms == 0
        assert [sum(step) for step in one.sizes[:-1]].count(BATCH) >= len(one.sizes) - 2
    assert len(small.rates) == len(large.rates) > 10
    assert small.rates == large.rates
    assert difference(small.parameters, large.parameters) < 1e-4
    assert small.scores == pytest.approx(large.scores, abs=1e-6)


def test_a_memory_model_that_promises_too_much(trained) -> None:  # type: ignore[no-untyped-def]
    """Batches are replayed, nothing is lost, and the store hears of the lowered limit."""
    spec = study()
    true = trained(spec, LARGE, measured(spec, LARGE))
    ((key, stored),) = measured(spec, SMALL).items()
    honest = MemoryModel.from_json(stored)
    half = replace(honest.train, row=0, token=honest.train.token / 2, pair=honest.train.pair / 2)
    wrong = replace(honest, train=half, verified_rows=0)
    found = trained(spec, SMALL, {key: wrong.to_json()})
    assert found.ooms > 0
    assert found.rates == true.rates
    assert difference(found.parameters, true.parameters) < 1e-4
    (news,) = found.learned
    assert news.key == key
    again = trained(spec, SMALL, {news.key: dict(news.memory)})
    assert again.ooms <= found.ooms
    assert again.limit <= found.limit + 1


def test_a_neighbour_arrives_and_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits follow the memory that is free, trial by trial."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = study(epochs=1)
    known = measured(spec, LARGE)
    trainer = Trainer(TrainerSetup(spec, tmp_path, tmp_path, LARGE, 1, memory=known))
    card = trainer.device
    assert isinstance(card, SimulatedCard)
    limits = trainer.model(spec.model).planner

    def run() -> int:
        trainer.run_trial(spec, spec.hyperparameters(), report=lambda _: Verdict.CONTINUE)
        return limits.limits.max_rows(64)

    alone = run()
    card.others_bytes = 36 * 2**30
    beside = run()
    card.others_bytes = 0
    assert beside < alone
    assert run() == alone


def test_a_card_too_small_for_one_pair_fails_the_trial(trained) -> None:  # type: ignore[no-untyped-def]
    spec = study(auto_detect_batch_size=False)
    with pytest.raises(TrialFailed) as raised:
        trained(spec, f"simulated:3.4GiB,scale={SCALE}", {})
    assert raised.value.cause == "cuda_oom"
    assert raised.value.hint


def test_without_detection_a_batch_goes_whole(trained) -> None:  # type: ignore[no-untyped-def]
    spec = study(auto_detect_batch_size=False, epochs=1)
    found = trained(spec, LARGE, {})
    assert all(len(step) == 1 for step in found.sizes)
    assert np.median([step[0] for step in found.sizes]) == BATCH
