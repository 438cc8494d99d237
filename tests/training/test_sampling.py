"""Epochs are plain random permutations; negatives and rewritten posts are drawn anew."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from criteria_cli.training.augmented import Augmented
from criteria_cli.training.sampling import epoch_pairs, pairs_per_epoch

PAIRS = np.arange(100, 300)
LABELS = (np.arange(200) % 10 == 0).astype(np.int8)


def test_every_pair_once_in_another_order_each_epoch() -> None:
    orders = [epoch_pairs(PAIRS, LABELS, None, (7, 1, epoch)) for epoch in (1, 2)]
    for order in orders:
        assert sorted(order) == list(PAIRS)
    assert not np.array_equal(*orders)
    assert np.array_equal(orders[0], epoch_pairs(PAIRS, LABELS, None, (7, 1, 1)))
    assert not np.array_equal(orders[0], epoch_pairs(PAIRS, LABELS, None, (8, 1, 1)))
    assert not np.array_equal(orders[0], epoch_pairs(PAIRS, LABELS, None, (7, 2, 1)))


@given(ratio=st.one_of(st.none(), st.floats(0.01, 20)), epoch=st.integers(1, 50))
def test_thinned_negatives(ratio: float | None, epoch: int) -> None:
    found = epoch_pairs(PAIRS, LABELS, ratio, (3, 1, epoch))
    assert len(found) == pairs_per_epoch(LABELS, ratio)
    assert len(set(found)) == len(found)
    assert set(PAIRS[LABELS == 1]) <= set(found)
    negatives = len(found) - 20
    assert negatives == (180 if ratio is None else min(180, int(ratio * 20)))


def test_other_negatives_each_epoch() -> None:
    seen = [set(epoch_pairs(PAIRS, LABELS, 2.0, (3, 1, epoch))) for epoch in range(1, 30)]
    assert seen[0] != seen[1]
    assert set.union(*seen) == set(PAIRS)


def test_batches_are_not_sorted_by_length() -> None:
    """Neighbours in an epoch are neighbours in the corpus no more often than by chance."""
    pairs = np.arange(20_000)
    order = epoch_pairs(pairs, np.zeros(20_000, np.int8), None, (1, 1, 1))
    close = np.abs(np.diff(order)) < 100
    assert 0.005 < close.mean() < 0.015


def test_rewritten_posts_stand_in_as_often_as_asked() -> None:
    post = np.arange(1000) % 50
    variants = {pair: np.array([100 + pair, 5000 + pair]) for pair in range(0, 1000, 2)}
    augmented = Augmented(post, variants, 0.3)
    pairs = np.arange(1000)
    shares: list[float] = []
    for epoch in range(1, 41):
        posts = augmented.posts(pairs, (5, 1, epoch))
        changed = posts != post
        assert not changed[1::2].any()
        assert all(posts[pair] in variants[pair] for pair in pairs[changed])
        shares.append(changed[::2].mean())
    assert abs(np.mean(shares) - 0.3) < 0.02
    assert augmented.applied(5, 1, 40) == round(500 * sum(shares))
    assert augmented.applied(5, 1, 0) == 0
    used = {int(augmented.posts(pairs, (5, 1, e))[0]) for e in range(1, 60)}
    assert used == {0, 100, 5000}


def test_what_a_pair_gets_does_not_hang_on_the_others() -> None:
    augmented = Augmented(np.arange(60), {p: np.array([100 + p]) for p in range(60)}, 0.5)
    whole = augmented.posts(np.arange(60), (5, 1, 1))
    some = np.array([40, 3, 17])
    assert np.array_equal(augmented.posts(some, (5, 1, 1)), whole[some])
