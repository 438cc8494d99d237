import numpy as np
import pytest

from criteria_cli.training.intervals import _Ranked, bootstrap
from criteria_cli.training.metrics import measure

CRITERIA = ("a", "b")


def _pairs(blocks: int, size: int, seed: int = 0):
    random = np.random.default_rng(seed)
    number = blocks * size
    block = np.repeat(np.arange(blocks), size)
    labels = (random.random(number) < 0.3).astype(np.int8)
    scores = np.round(random.normal(size=number) + 1.5 * labels, 1).astype(np.float32)
    return scores, labels, np.arange(number) % 2, block


def test_a_pair_counted_several_times_is_as_if_repeated() -> None:
    """The weighted metrics of a resample equal the plain metrics of the repeated pairs."""
    scores, labels, _, block = _pairs(15, 8)
    random = np.random.default_rng(1)
    times = random.multinomial(15, [1 / 15] * 15, size=5)
    ranked = _Ranked.of(scores, labels == 1, scores > 0.5, block)
    found = ranked.metrics(times[:, ranked.blocks])
    for replicate in range(5):
        rows = np.repeat(np.arange(len(scores)), times[replicate][block])
        plain = measure(
            scores[rows], labels[rows], np.zeros(len(rows), int), ("a",), threshold=0.5
        ).pooled
        for metric, values in found.items():
            assert values[replicate] == pytest.approx(plain[metric]), metric


def test_an_interval_holds_the_true_value_about_as_often_as_it_says() -> None:
    """Pairs of a block share a label pattern: drawing single pairs would be far too sure."""
    random = np.random.default_rng(3)
    truth, held, runs = 0.5, 0, 150
    for run in range(runs):
        shown = np.repeat(random.random(40) < truth, 6)  # whole blocks are right or wrong
        labels = np.ones(240, dtype=np.int8)
        intervals = bootstrap(
            shown.astype(np.float32), labels, shown, np.zeros(240, int), ("a",),
            np.repeat(np.arange(40), 6), replicates=200, seed=run,
        )  # fmt: skip
        low, high = intervals.pooled["recall"]
        held += low <= truth <= high
    assert 0.87 <= held / runs <= 0.99


def test_intervals_surround_the_estimates_and_narrow_with_more_blocks() -> None:
    widths = []
    for blocks in (20, 320):
        scores, labels, criterion, block = _pairs(blocks, 6)
        plain = measure(scores, labels, criterion, CRITERIA, threshold=0.5)
        intervals = bootstrap(
            scores, labels, scores > 0.5, criterion, CRITERIA, block, replicates=300
        )
        for metric, (low, high) in intervals.pooled.items():
            assert low <= plain.pooled[metric] <= high, metric
        low, high = intervals.pooled["f1"]
        widths.append(high - low)
        assert set(intervals.per_criterion) == set(CRITERIA)
    assert widths[1] < widths[0] / 2


def test_a_criterion_without_positives_has_an_interval_that_says_nothing() -> None:
    scores, labels, criterion, block = _pairs(10, 6)
    labels[criterion == 1] = 0
    intervals = bootstrap(scores, labels, scores > 0, criterion, CRITERIA, block, replicates=50)
    assert intervals.per_criterion["b"]["f1"] == (0.0, 1.0)
    assert np.isfinite(intervals.pooled["macro_f1"]).all()
