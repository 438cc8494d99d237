import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from criteria_cli.errors import TrialFailed
from criteria_cli.training.metrics import measure, reliability_bins

CRITERIA = ("A.1", "A.2", "A.3")


def _case(seed: int, pairs: int, ties: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = random.normal(size=pairs).astype(np.float32)
    if ties:
        scores = np.round(scores, 1)
    criterion = np.arange(pairs) % len(CRITERIA)
    labels = (random.random(pairs) < 0.3).astype(np.int8)
    labels[:6] = [1, 1, 1, 0, 0, 0]
    return scores, labels, criterion


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_values_equal_scikit_learn(seed: int, ties: bool) -> None:
    scores, labels, criterion = _case(seed, 200, ties)
    metrics = measure(scores, labels, criterion, CRITERIA, threshold=0.2)
    called = scores > 0.2
    assert metrics.pooled["precision"] == pytest.approx(reference.precision_score(labels, called))
    assert metrics.pooled["recall"] == pytest.approx(reference.recall_score(labels, called))
    assert metrics.pooled["f1"] == pytest.approx(reference.f1_score(labels, called))
    assert metrics.pooled["accuracy"] == pytest.approx(reference.accuracy_score(labels, called))
    assert metrics.pooled["auroc"] == pytest.approx(reference.roc_auc_score(labels, scores))
    assert metrics.pooled["average_precision"] == pytest.approx(
        reference.average_precision_score(labels, scores)
    )
    per = [
        reference.f1_score(labels[criterion == index], called[criterion == index])
        for index in range(3)
    ]
    assert metrics.pooled["macro_f1"] == pytest.approx(np.mean(per))
    assert [metrics.per_criterion[name]["f1"] for name in CRITERIA] == pytest.approx(per)
    assert metrics.pooled["all_positive_f1"] == pytest.approx(
        reference.f1_score(labels, np.ones_like(labels))
    )


@given(st.integers(0, 30), st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_every_value_is_a_number(pairs: int, seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    labels = (random.random(pairs) < share).astype(np.int8)
    scores = random.integers(-1, 2, pairs).astype(np.float32)
    metrics = measure(scores, labels, random.integers(0, 3, pairs), CRITERIA)
    values = [*metrics.pooled.values()]
    values += [value for per in metrics.per_criterion.values() for value in per.values()]
    assert np.isfinite(values).all()


def test_a_criterion_without_positives_does_not_pull_macro_f1_down() -> None:
    scores = np.array([1.0, -1.0, -1.0, -1.0])
    metrics = measure(scores, np.array([1, 0, 0, 0]), np.array([0, 0, 1, 1]), ("A.1", "A.2"))
    assert metrics.pooled["macro_f1"] == 1.0


def test_a_model_that_says_the_same_of_every_pair_is_called_collapsed() -> None:
    labels, criterion = np.array([0, 1, 0, 1]), np.zeros(4, dtype=int)
    same = np.full(4, -3.0) + np.array([0, 1e-5, 0, -1e-5])
    assert measure(same, labels, criterion, ("A.1",)).collapsed
    assert not measure(np.array([-3, -2, -3, -1.0]), labels, criterion, ("A.1",)).collapsed


def test_scores_that_are_not_numbers_fail_the_trial() -> None:
    with pytest.raises(TrialFailed) as failure:
        measure(np.array([0.0, np.nan]), np.array([0, 1]), np.array([0, 0]), ("A.1",))
    assert failure.value.cause == "nan_loss"


def test_scores_are_judged_in_float32() -> None:
    """A score that bfloat16 would round onto the threshold keeps its side."""
    scores = np.array([1e-4, -1e-4])
    metrics = measure(1.0 + scores, np.array([1, 0]), np.array([0, 0]), ("A.1",), threshold=1.0)
    assert metrics.pooled["f1"] == 1.0


def test_reliability_bins_agree_with_scikit_learn() -> None:
    from sklearn.calibration import calibration_curve

    scores, labels, _ = _case(3, 400, ties=False)
    bins = reliability_bins(scores, labels == 1)
    shares, said = calibration_curve(labels, 1 / (1 + np.exp(-scores)), n_bins=10)
    assert sum(pairs for pairs, _, _ in bins) == 400
    assert [positives / pairs for pairs, _, positives in bins] == pytest.approx(shares)
    assert [probability for _, probability, _ in bins] == pytest.approx(said, rel=1e-5)
    sure = reliability_bins(np.array([1e4, -1e4], dtype=np.float32), np.array([True, False]))
    assert sure == ((1, 0.0, 0), (1, 1.0, 1))
