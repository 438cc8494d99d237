"""What the probe measures is a step of training: its optimiser, precision and longest input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from criteria_cli.study.spec import ModelSpec, TrainingSpec
from criteria_cli.training import probe_process
from criteria_cli.training.devices import Precision
from criteria_cli.training.measuring import OPTIMIZER_STEPS, Measurement, StepMeter
from criteria_cli.training.model import encoder_from_config
from criteria_cli.training.probe import ProbeSettings
from criteria_cli.training.simulated import SimulatedCard

MODEL = ModelSpec(name="builtin:tiny-deberta-v2", max_length=64)
CARD = "simulated:4GiB"


def measured(precision: Precision, rows: int) -> tuple[Measurement, StepMeter]:
    card = SimulatedCard(4 * 2**30)
    with card.use():
        scoring = encoder_from_config(MODEL)
        meter = StepMeter(scoring, card, precision, MODEL, TrainingSpec(), 100)
        return meter.train(rows, MODEL.max_length), meter


def test_a_measured_step_holds_gradients_and_moments_and_updates() -> None:
    """Trap 17: without the optimiser's state, half of a card's need was not seen."""
    found, meter = measured("fp32", 4)
    resident = meter.resident_bytes()
    assert resident["gradients"] == resident["parameters"]
    assert resident["optimizer"] >= 2 * resident["parameters"]
    assert found.optimizer >= sum(resident.values())
    assert found.requested > sum(resident.values())
    steps = {int(state["step"]) for state in meter._step.optimizer.state.values()}
    assert steps == {OPTIMIZER_STEPS}


def test_it_computes_in_the_precision_that_is_asked_for() -> None:
    single, half = (measured(precision, 64)[0].requested for precision in ("fp32", "bf16"))
    assert half < 0.9 * single


class Seen(Exception):
    """Ends a probe where its search would begin."""


@pytest.mark.parametrize(("precision", "effective"), [("auto", "bf16"), ("fp32", "fp32")])
def test_a_probe_asks_for_the_study_s_precision_and_longest_input(
    precision: str, effective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(meter: StepMeter, length: int, *_: Any, **__: Any) -> None:
        assert meter._model.precision == effective
        assert length == MODEL.max_length
        raise Seen

    monkeypatch.setattr(probe_process, "fit_memory", search)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = ProbeSettings(CARD, MODEL, TrainingSpec.model_validate({"precision": precision}))
    with pytest.raises(Seen):
        probe_process.answer({**settings.to_json(), "known": {}, "refresh": False})
