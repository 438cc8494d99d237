import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from criteria_cli.training.calibration import (
    RARE,
    Calibration,
    best_threshold,
    fit_calibration,
    fit_temperature,
)


def _pairs(number: int, *, slope: float = 1.0, bias: float = 0.0, seed: int = 0):
    """Scores whose labels follow sigmoid(slope * score + bias) exactly."""
    random = np.random.default_rng(seed)
    scores = random.normal(-1, 2, number)
    labels = random.random(number) < 1 / (1 + np.exp(-(slope * scores + bias)))
    return scores.astype(np.float32), labels.astype(np.int8), np.arange(number) % 3


@pytest.mark.parametrize(("slope", "bias"), [(1.0, 0.0), (0.4, -1.0), (2.5, 0.7)])
def test_temperature_and_bias_of_known_scores_are_found(slope: float, bias: float) -> None:
    scores, labels, _ = _pairs(40_000, slope=slope, bias=bias)
    temperature, shift = fit_temperature(scores, labels == 1)
    assert 1 / temperature == pytest.approx(slope, rel=0.05)
    assert shift == pytest.approx(bias, abs=0.06)


def test_probabilities_after_calibration_are_shares() -> None:
    scores, labels, criterion = _pairs(40_000, slope=0.5, bias=-0.5)
    calibration = fit_calibration(scores, labels, criterion, ("a", "b", "c"))
    fresh, truth, _ = _pairs(40_000, slope=0.5, bias=-0.5, seed=1)
    probabilities = calibration.probabilities(fresh)
    for low in np.arange(0, 0.8, 0.1):
        inside = (probabilities >= low) & (probabilities < low + 0.1)
        assert truth[inside].mean() == pytest.approx(probabilities[inside].mean(), abs=0.03)


def test_scores_that_separate_the_labels_keep_a_finite_temperature() -> None:
    scores = np.array([-4.0, -3, -2, 2, 3, 4])
    temperature, bias = fit_temperature(scores, scores > 0)
    assert np.isfinite([temperature, bias]).all()
    assert temperature >= 0.05


def test_a_model_worse_than_chance_is_not_turned_upside_down() -> None:
    scores = np.array([-2.0, -1, 1, 2])
    temperature, _ = fit_temperature(scores, scores < 0)
    assert temperature > 0


@given(st.integers(0, 2**31), st.integers(2, 60), st.booleans())
@settings(max_examples=80, deadline=None)
def test_no_other_threshold_has_a_better_f1(seed: int, number: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.random(number)
    if ties:
        probabilities = np.clip(np.round(probabilities, 1), 0.05, 0.95)
    positive = random.random(number) < 0.4
    positive[0] = True
    best = f1_score(positive, probabilities > best_threshold(probabilities, positive))
    for other in [0.0, *np.sort(probabilities)]:
        assert best >= f1_score(positive, probabilities > other, zero_division=0.0) - 1e-12


def test_a_rare_criterion_has_the_threshold_of_all() -> None:
    scores, labels, criterion = _pairs(3000)
    rare = np.flatnonzero((criterion == 2) & (labels == 1))
    labels[rare[RARE - 1 :]] = 0
    calibration = fit_calibration(scores, labels, criterion, ("a", "b", "c"))
    assert set(calibration.thresholds or {}) == {"a", "b"}
    limits = calibration.limits(np.array([2, 0]), ("a", "b", "c"))
    assert limits.tolist() == [calibration.threshold, (calibration.thresholds or {})["a"]]


def test_abstaining_halves_the_wrong_decisions_among_the_rest() -> None:
    scores, labels, criterion = _pairs(20_000)
    calibration = fit_calibration(scores, labels, criterion, ("a", "b", "c"))
    probabilities = calibration.probabilities(scores)
    limits = calibration.limits(criterion, ("a", "b", "c"))
    wrong = (probabilities > limits) != (labels == 1)
    kept = ~calibration.uncertain(probabilities, limits)
    assert 0.1 < kept.mean() < 1.0
    assert wrong[kept].mean() == pytest.approx(wrong.mean() / 2, rel=0.05)


def test_a_calibration_survives_its_json() -> None:
    scores, labels, criterion = _pairs(500)
    calibration = fit_calibration(scores, labels, criterion, ("a", "b", "c"))
    assert Calibration.from_json(calibration.to_json()) == calibration


def test_extreme_scores_have_probabilities() -> None:
    assert Calibration().probabilities(np.array([-1e4, 1e4])).tolist() == [0.0, 1.0]
