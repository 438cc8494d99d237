"""The probe on simulated cards of 5 to 80 GiB: what it may take, and that what it admits runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from criteria_cli.study.spec import ModelSpec, TrainingSpec
from criteria_cli.training import probe_process
from criteria_cli.training.measuring import StepMeter
from criteria_cli.training.model import encoder_from_config
from criteria_cli.training.opening import open_device
from criteria_cli.training.probe import Probed, ProbeSettings

MODEL = ModelSpec(name="builtin:tiny-deberta-v2", max_length=96)
TRAINING = TrainingSpec(precision="fp32")
SCALE = 768
MOST = {
    "5GiB,expandable": 1, "5GiB,segments": 1, "9GiB,expandable": 7, "12GiB,segments": 11,
    "18GiB,segments": 20, "24GiB,expandable": 29, "24GiB,segments": 28, "28GiB,segments": 35,
    "40GiB,expandable": 53, "40GiB,segments": 52, "48GiB,expandable": 64, "48GiB,segments": 65,
    "64GiB,expandable": 88, "64GiB,segments": 88, "80GiB,expandable": 111, "80GiB,segments": 111,
}  # fmt: skip
"""What exhaustive search finds, each size with a fresh model on a fresh card."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def probed_on(card: str) -> Probed:
    """The answer of the probe's process, asked here, which spares its start."""
    settings = ProbeSettings(f"simulated:{card},scale={SCALE}", MODEL, TRAINING)
    answer = probe_process.answer(settings.to_json() | {"known": {}, "refresh": True})
    assert "probed" in answer, answer
    return Probed.from_json(answer["probed"])


@pytest.mark.parametrize("card", MOST)
def test_few_steps_one_error_and_the_largest_that_fits(card: str) -> None:
    probed = probed_on(card)
    assert probed.train_rows == MOST[card]
    assert probed.verified
    assert 2 <= probed.steps <= 4
    assert probed.ooms <= 1
    assert 2 <= probed.further_steps <= 3
    assert probed.evaluate_rows >= 0.8 * probed.train_rows


@pytest.mark.parametrize("card", ["6GiB,expandable", "16GiB,segments", "40GiB,expandable"])
def test_what_is_admitted_at_any_length_runs(card: str) -> None:
    """In the order of training: lengths alternate, and evaluation lies between."""
    limits = probed_on(card).limits
    device, scoring = open_device(f"simulated:{card},scale={SCALE}"), encoder_from_config(MODEL)
    with device.use():
        vocabulary = int(scoring.module.config.vocab_size)
        meter = StepMeter(scoring, device, "fp32", MODEL, TRAINING, vocabulary)
        meter.set_cap(limits.cap)
        for length in (96, 8, 64, 24, 40, 88, 16, 48, 96):
            seen = meter.train(limits.max_rows(length), length)
            assert seen.fits, seen
            seen = meter.evaluate(limits.evaluate.max_rows(length), length)
            assert seen.fits, seen
