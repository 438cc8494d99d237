"""How an effective batch goes through a device: as micro-batches that fit and cost least time.

The batch is drawn before it is planned and is never changed here: every plan holds each of its
examples exactly once. Pure arithmetic on lengths; knows no text and no device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from criteria_cli.training.memory import Bound, Limits

LENGTH_MULTIPLE = 8
"""Lengths are padded to this: tensor cores want it, and it keeps the distinct shapes few."""


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Examples that go through the device together."""

    rows: NDArray[np.intp]
    """Positions in the batch (or in the evaluated set), shape (n,)."""
    length: int
    """Tokens to pad each of them to."""
    windows: int | None = None
    """Rows on the device, where an example takes more than one."""

    @property
    def device_rows(self) -> int:
        """Rows that go through the device."""
        return len(self) if self.windows is None else self.windows

    def __len__(self) -> int:
        return int(self.rows.size)


def calculate_gradient_accumulation(sampled: int, max_safe: int) -> tuple[int, int]:
    """The micro-batch and the number of them for a sampled batch on a card that holds `max_safe`.

    The batch stays exactly `sampled` examples: the micro-batch returned is the largest of a
    balanced split, (64, 23) giving 22 with 3 micro-batches of 22, 21 and 21.

    Raises:
        ValueError: a number below 1.
    """
    if sampled < 1 or max_safe < 1:
        raise ValueError(f"both numbers must be at least 1, not {sampled} and {max_safe}")
    steps = math.ceil(sampled / max_safe)
    return math.ceil(sampled / steps), steps


def balanced_split(sampled: int, max_safe: int) -> list[int]:
    """Sizes of the fewest micro-batches of at most `max_safe`, at most one apart, largest first."""
    _, steps = calculate_gradient_accumulation(sampled, max_safe)
    size, larger = divmod(sampled, steps)
    return [size + 1] * larger + [size] * (steps - larger)


def padded_length(length: int, max_length: int) -> int:
    """The length rounded up to a multiple of 8, at most `max_length`."""
    return min(max_length, -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE)


class Planner:
    """Plans batches under limits that may be lowered while training runs."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def plan(
        self, lengths: NDArray[np.integer], rows: NDArray[np.integer] | None = None
    ) -> list[MicroBatch]:
        """Micro-batches of one training batch, longest first.

        Args:
            lengths: tokens of each example, special tokens included, shape (batch,).
            rows: rows that each example takes, shape (batch,); one each by default. An example's
                rows stay together, even where they are more than fit.
        """
        return cheapest(lengths, self.limits.train, rows)

    def plan_evaluation(
        self, lengths: NDArray[np.integer], rows: NDArray[np.integer] | None = None
    ) -> list[MicroBatch]:
        """Micro-batches of a whole set to be scored, sorted by length, longest first."""
        return in_order(lengths, self.limits.evaluate, rows)

    def admit(
        self, rows: int, length: int, *, evaluation: bool = False, remember: bool = True
    ) -> None:
        """Plan no more than `rows` at this padded length from now on: more ran out of memory."""
        self.limits = self.limits.lower(rows, length, evaluation=evaluation, remember=remember)


def cheapest(
    lengths: NDArray[np.integer], bound: Bound, rows: NDArray[np.integer] | None = None
) -> list[MicroBatch]:
    """The partition of the length-sorted batch into runs that costs least seconds.

    Dynamic programming over prefixes: `best[j]` is the least cost of the `j` longest examples. A
    run is padded to its first, longest example, so the bytes and the cost of a row are known from
    where the run starts. Among equal costs balanced runs win.
    """
    order, padded = _sorted(lengths, bound.max_length)
    count = order.size
    if count == 0:
        return []
    distinct, where = np.unique(padded, return_inverse=True)
    per_row = np.array([bound.seconds.per_row(int(length)) for length in distinct])[where]
    most = np.array([bound.max_rows(int(length)) for length in distinct])[where]
    # a trace of convexity, far below any real difference, so that equal rows split evenly
    tie = 1e-7 * max(float(per_row[0]), 1e-12)
    before = _rows_before(order, rows)
    best = np.zeros(count + 1)
    start_of = np.zeros(count + 1, dtype=np.intp)
    for end in range(1, count + 1):
        taken = before[end] - before[:end]
        cost = best[:end] + taken * per_row[:end] + tie * taken * taken
        cost[:-1][taken[:-1] > most[: end - 1]] = np.inf
        start = int(cost.argmin())
        best[end] = cost[start] + bound.seconds.base
        start_of[end] = start
    return _runs(order, padded, start_of, None if rows is None else before)


def in_order(
    lengths: NDArray[np.integer], bound: Bound, rows: NDArray[np.integer] | None = None
) -> list[MicroBatch]:
    """Runs of the length-sorted set, each as large as fits: for sets too large to plan exactly."""
    order, padded = _sorted(lengths, bound.max_length)
    before = _rows_before(order, rows)
    plan = []
    start = 0
    while start < order.size:
        length = int(padded[start])
        most = before[start] + bound.max_rows(length)
        end = max(start + 1, int(np.searchsorted(before, most, side="right")) - 1)
        windows = None if rows is None else int(before[end] - before[start])
        plan.append(MicroBatch(order[start:end], length, windows))
        start = end
    return plan


def _rows_before(order: NDArray[np.intp], rows: NDArray[np.integer] | None) -> NDArray[np.int64]:
    """(examples + 1,) rows of the examples before each place of the order."""
    counts = np.ones(order.size, dtype=np.int64) if rows is None else np.asarray(rows)[order]
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _sorted(
    lengths: NDArray[np.integer], max_length: int
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Positions from longest to shortest, and their padded lengths in that order."""
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.size and int(sizes.max()) > max_length:
        raise ValueError(f"a length of {int(sizes.max())} is above the longest, {max_length}")
    order = np.argsort(-sizes, kind="stable")
    up = -(-sizes[order] // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    return order, np.minimum(up, max_length)


def _runs(
    order: NDArray[np.intp],
    padded: NDArray[np.int64],
    start_of: NDArray[np.intp],
    before: NDArray[np.int64] | None,
) -> list[MicroBatch]:
    plan = []
    end = order.size
    while end > 0:
        start = int(start_of[end])
        windows = None if before is None else int(before[end] - before[start])
        plan.append(MicroBatch(order[start:end], int(padded[start]), windows))
        end = start
    return plan[::-1]
