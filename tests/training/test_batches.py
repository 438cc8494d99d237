"""Plans hold every example once, fit, and cost least; batches are exactly those sampled."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criteria_cli.training.batches import (
    Planner,
    balanced_split,
    calculate_gradient_accumulation,
    cheapest,
    padded_length,
)
from criteria_cli.training.memory import Bound, Curve, Limits, MemoryModel, whole_batches

MIB = 2**20
DEBERTA_BASE = MemoryModel(
    max_length=512,
    train=Curve(3041.7 * MIB, 18.62 * MIB, 0.69364 * MIB, 0.0010572 * MIB),
    evaluate=Curve(2110 * MIB, 5 * MIB, 0.05 * MIB, 0.0001 * MIB),
    optimizer_peak=2888 * MIB,
    train_seconds=Curve(0.03, 0, 1e-4, 1e-7),
    evaluate_seconds=Curve(0.01, 0, 3e-5, 3e-8),
    allocator="expandable",
)
"""Coefficients of DeBERTa-v3-base in bf16."""


def limits(gib: float) -> Limits:
    return Limits.under(DEBERTA_BASE, int(gib * 2**30))


@pytest.mark.parametrize(
    ("sampled", "max_safe", "expected", "sizes"),
    [
        (16, 32, (16, 1), [16]),
        (64, 32, (32, 2), [32, 32]),
        (128, 32, (32, 4), [32] * 4),
        (64, 23, (22, 3), [22, 21, 21]),
        (100, 32, (25, 4), [25] * 4),
        (16, 25, (16, 1), [16]),
        (128, 25, (22, 6), [22, 22, 21, 21, 21, 21]),
    ],
)
def test_accumulation(
    sampled: int, max_safe: int, expected: tuple[int, int], sizes: list[int]
) -> None:
    """The spec's values; trap 20: 128 with 25 at once trained 125."""
    assert calculate_gradient_accumulation(sampled, max_safe) == expected
    assert balanced_split(sampled, max_safe) == sizes


@pytest.mark.parametrize(("sampled", "max_safe"), [(0, 1), (1, 0), (-1, 4)])
def test_accumulation_of_nothing(sampled: int, max_safe: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        calculate_gradient_accumulation(sampled, max_safe)


@given(st.integers(1, 2000), st.integers(1, 300))
def test_splits_are_exact_balanced_and_few(sampled: int, max_safe: int) -> None:
    sizes = balanced_split(sampled, max_safe)
    assert sum(sizes) == sampled
    assert max(sizes) <= max_safe
    assert max(sizes) - min(sizes) <= 1
    assert (len(sizes) - 1) * max_safe < sampled


LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=70)


@given(LENGTHS, st.sampled_from([6.5, 8.0, 16.0, 48.0]))
@settings(max_examples=60, deadline=None)
def test_a_plan_holds_each_example_once_and_fits(lengths: list[int], gib: float) -> None:
    bound = limits(gib).train
    plan = Planner(limits(gib)).plan(np.array(lengths))
    rows = np.concatenate([part.rows for part in plan])
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    for part in plan:
        assert bound.fits(len(part), part.length)
        assert max(lengths[row] for row in part.rows) <= part.length
        assert part.length % 8 == 0
    assert [part.length for part in plan] == sorted((p.length for p in plan), reverse=True)


@given(LENGTHS, st.sampled_from([4.0, 48.0]))
@settings(max_examples=30, deadline=None)
def test_evaluation_plans_hold_each_example_once_and_fit(lengths: list[int], gib: float) -> None:
    bound = limits(gib).evaluate
    plan = Planner(limits(gib)).plan_evaluation(np.array(lengths))
    assert sorted(np.concatenate([p.rows for p in plan]).tolist()) == list(range(len(lengths)))
    assert all(bound.fits(len(part), part.length) for part in plan)


def every_partition(count: int) -> list[list[int]]:
    return [
        [end - start for start, end in itertools.pairwise([0, *cuts, count])]
        for parts in range(count)
        for cuts in itertools.combinations(range(1, count), parts)
    ]


@given(st.lists(st.integers(1, 512), min_size=1, max_size=9), st.sampled_from([4.5, 6.0, 48.0]))
@settings(max_examples=60, deadline=None)
def test_no_partition_costs_less(lengths: list[int], gib: float) -> None:
    bound = limits(gib).train

    def cost(sizes: list[int], ordered: list[int]) -> float:
        total, start = 0.0, 0
        for size in sizes:
            length = padded_length(ordered[start], 512)
            if not bound.fits(size, length):
                return float("inf")
            total += bound.cost(size, length)
            start += size
        return total

    ordered = sorted(lengths, reverse=True)
    best = min(cost(sizes, ordered) for sizes in every_partition(len(lengths)))
    plan = cheapest(np.array(lengths), bound)
    found = sum(bound.cost(len(part), part.length) for part in plan)
    assert found <= best * (1 + 1e-4)


def test_equal_lengths_split_evenly() -> None:
    """64 on a card that holds 23."""
    bound = Bound(
        row_bytes=Curve(token=1.0),
        seconds=Curve(base=1.0, token=0.01),
        budget=0.0,
        full_rows=23,
        max_length=512,
    )
    plan = cheapest(np.full(64, 512), bound)
    assert sorted(len(part) for part in plan) == [21, 21, 22]


def test_short_examples_are_not_padded_to_the_longest() -> None:
    lengths = np.array([512] * 4 + [32] * 60)
    plan = Planner(limits(48)).plan(lengths)
    padded = sum(len(part) * part.length for part in plan)
    assert padded == int(lengths.sum())


def test_an_empty_set_needs_no_plan() -> None:
    assert Planner(limits(48)).plan(np.zeros(0, dtype=np.int64)) == []
    assert Planner(limits(48)).plan_evaluation(np.zeros(0, dtype=np.int64)) == []


def test_a_length_above_the_longest_is_a_bug() -> None:
    with pytest.raises(ValueError, match="above the longest"):
        Planner(limits(48)).plan(np.array([513]))


def test_lengths_of_a_model_that_ends_off_a_multiple() -> None:
    assert padded_length(513, 514) == 514
    assert padded_length(505, 514) == 512


def test_without_detection_a_batch_goes_whole_until_it_does_not_fit() -> None:
    planner = Planner(whole_batches(512, evaluation_rows=7))
    lengths = np.array([500, 20, 30, 40])
    assert [len(part) for part in planner.plan(lengths)] == [4]
    assert [len(p) for p in planner.plan_evaluation(np.full(15, 64))] == [7, 7, 1]
    planner.admit(3, 504)
    assert all(len(part) * part.length <= 3 * 504 for part in planner.plan(lengths))
    assert len(planner.plan(np.full(4, 500))) == 2
