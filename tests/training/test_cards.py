"""The same trial on a small and on a large card is the same trial (traps 20 to 24)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from card_trials import BATCH, LARGE, SCALE, SMALL, difference, measured, study, train

from criteria_cli.errors import TrialFailed
from criteria_cli.study.messages import TrainerSetup
from criteria_cli.study.trial import Verdict
from criteria_cli.training.memory import MemoryModel
from criteria_cli.training.simulated import SimulatedCard
from criteria_cli.training.trainer import Trainer


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_two_cards_train_the_same() -> None:
    spec = study()
    small = train(spec, SMALL, measured(spec, SMALL))
    large = train(spec, LARGE, measured(spec, LARGE))
    assert small.limit < BATCH < large.limit
    assert max(len(step) for step in small.sizes) > max(len(step) for step in large.sizes)
    for one in (small, large):
        assert one.ooms == 0
        assert [sum(step) for step in one.sizes[:-1]].count(BATCH) >= len(one.sizes) - 2
    assert len(small.rates) == len(large.rates) > 10
    assert small.rates == large.rates
    assert difference(small.parameters, large.parameters) < 1e-4
    assert small.scores == pytest.approx(large.scores, abs=1e-6)


def test_a_memory_model_that_promises_too_much() -> None:
    """Batches are replayed, nothing is lost, and the store hears of the lowered limit."""
    spec = study()
    true = train(spec, LARGE, measured(spec, LARGE))
    ((key, stored),) = measured(spec, SMALL).items()
    honest = MemoryModel.from_json(stored)
    half = replace(honest.train, row=0, token=honest.train.token / 2, pair=honest.train.pair / 2)
    wrong = replace(honest, train=half, verified_cap=0)
    found = train(spec, SMALL, {key: wrong.to_json()})
    assert found.ooms > 0
    assert found.rates == true.rates
    assert difference(found.parameters, true.parameters) < 1e-4
    (news,) = found.learned
    assert news.key == key
    again = train(spec, SMALL, {news.key: dict(news.memory)})
    assert again.ooms <= found.ooms
    assert again.limit <= found.limit + 1


def test_a_neighbour_arrives_and_leaves(tmp_path: Path) -> None:
    """Limits follow the memory that is free, trial by trial."""
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


def test_a_card_too_small_for_one_pair_fails_the_trial() -> None:
    spec = study(auto_detect_batch_size=False)
    with pytest.raises(TrialFailed) as raised:
        train(spec, f"simulated:3.4GiB,scale={SCALE}", {})
    assert raised.value.cause == "cuda_oom"
    assert raised.value.hint


def test_without_detection_a_batch_goes_whole() -> None:
    spec = study(auto_detect_batch_size=False, epochs=1)
    found = train(spec, LARGE, {})
    assert all(len(step) == 1 for step in found.sizes)
    assert np.median([step[0] for step in found.sizes]) == BATCH
