"""The search for what fits, on a card that exists only as arithmetic: every case is cheap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criteria_cli.errors import MachineError
from criteria_cli.training.fitting import MOST_ROWS, Fit, fit_memory
from criteria_cli.training.measuring import Measurement
from criteria_cli.training.memory import Limits

MIB = 2**20
GIB = 2**30


@dataclass
class PaperCard:
    """A meter that knows the bytes of a step instead of running it. Bytes in MiB."""

    total: float
    resident: float = 2814.0
    base: float = 3041.7
    row: float = 18.6
    token: float = 0.694
    pair: float = 0.00106
    flat: float = 0.0
    """A peak that does not depend on the rows, and hides them while they are few."""
    kernels: Callable[[int], float] = lambda _rows: 0.0
    """What a kernel takes beyond the line, by rows."""
    page: float = 20.0
    gaps: float = 0.01
    """What the allocator reserves beyond what is asked for."""
    spills: bool = False
    others: float = 550.0
    headroom: float = 0.1
    layers: int = 12
    cap: int = 0
    before_each: Callable[[PaperCard], None] = lambda _card: None
    tried: list[tuple[int, int]] = field(default_factory=list)

    def current_cap(self) -> int:
        return int((self.total - self.others - self.headroom * self.total) * MIB)

    def set_cap(self, cap: int) -> None:
        self.cap = cap

    def resident_bytes(self) -> dict[str, int]:
        quarter = int(self.resident * MIB / 4)
        return {"parameters": quarter, "gradients": quarter, "optimizer": 2 * quarter}

    def requested(self, rows: int, length: int) -> float:
        per_row = self.row + self.token * length + self.pair * length**2
        return max(self.flat, self.base + rows * per_row + self.kernels(rows))

    def reserved(self, rows: int, length: int) -> float:
        return self._above(self.requested(rows, length), rows)

    def _above(self, requested: float, rows: int) -> float:
        del rows
        return math.ceil(requested * (1 + self.gaps) / self.page) * self.page

    def holds(self, rows: int, length: int) -> bool:
        return self.reserved(rows, length) * MIB <= self.cap

    def train(self, rows: int, length: int) -> Measurement:
        return self._measure(rows, length, self.requested(rows, length), 2900.0)

    def evaluate(self, rows: int, length: int) -> Measurement:
        a_layer = (self.row + self.token * length + self.pair * length**2) / self.layers
        requested = self.resident * 0.75 + rows * 1.4 * a_layer
        return self._measure(rows, length, requested, 0.0)

    def _measure(self, rows: int, length: int, requested: float, optimizer: float) -> Measurement:
        self.before_each(self)
        self.tried.append((rows, length))
        reserved = self._above(requested, rows)
        fits = reserved * MIB <= self.cap
        failed = not fits and not self.spills
        return Measurement(
            rows=rows,
            length=length,
            fits=fits,
            out_of_memory=failed,
            requested=0 if failed else int(requested * MIB),
            optimizer=0 if failed else int(optimizer * MIB),
            reserved=self.cap if failed else int(reserved * MIB),
            retries=0,
            seconds=0.0 if failed else 0.03 + rows * length * 1e-5,
        )

    def most(self, length: int = 512) -> int:
        """Exhaustive search."""
        return max(rows for rows in range(MOST_ROWS + 1) if rows == 0 or self.holds(rows, length))


def fitted(card: PaperCard, max_length: int = 512, allocator: str = "expandable") -> Fit:
    return fit_memory(card, max_length, card.current_cap, allocator=allocator)


def within_bounds(fit: Fit) -> None:
    """What a probe may take, whatever the card."""
    assert 2 <= fit.steps <= 4
    assert fit.ooms <= 1
    assert fit.further_steps <= 3
    assert fit.verified


@given(
    gib=st.floats(6.0, 90.0),
    gaps=st.floats(0.0, 0.12),
    page=st.sampled_from([2.0, 20.0, 64.0]),
    row=st.floats(1.0, 60.0),
    token=st.floats(0.05, 1.5),
)
@settings(max_examples=200, deadline=None)
def test_the_answer_is_nearly_that_of_exhaustive_search(
    gib: float, gaps: float, page: float, row: float, token: float
) -> None:
    """Four steps do not always reach it where rows are small and the allocator's share is large."""
    card = PaperCard(total=gib * 1024, gaps=gaps, page=page, row=row, token=token)
    fit = fitted(card)
    within_bounds(fit)
    assert card.holds(fit.train_rows, 512)
    assert fit.train_rows >= min(card.most() - 1, 0.95 * card.most())
    assert not fit.contended


@given(gib=st.floats(6.0, 80.0), gaps=st.floats(0.0, 0.02))
@settings(max_examples=100, deadline=None)
def test_with_rows_of_a_real_model_it_is_that_or_one_less(gib: float, gaps: float) -> None:
    card = PaperCard(total=gib * 1024, gaps=gaps)
    assert card.most() - 1 <= fitted(card).train_rows <= card.most()


@pytest.mark.parametrize("gib", [6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 80])
@pytest.mark.parametrize("gaps", [0.004, 0.02, 0.06])
def test_two_to_four_steps_and_at_most_one_error(gib: int, gaps: float) -> None:
    """Bisection takes 8 steps, about half of them errors."""
    within_bounds(fitted(PaperCard(total=gib * 1024, gaps=gaps)))


@dataclass
class SegmentCard(PaperCard):
    """Keeps whole segments: few rows reserve a larger share than many (simulated: 14 % to 1 %)."""

    def _above(self, requested: float, rows: int) -> float:
        kept = 500.0 if rows < 3 else 700.0 if rows < 12 else 250.0 + 2.0 * rows
        return math.ceil((requested + kept) / self.page) * self.page


@pytest.mark.parametrize("gib", [6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48])
def test_segments_kept_for_few_rows_do_not_mislead(gib: int) -> None:
    card = SegmentCard(total=gib * 1024)
    fit = fitted(card, allocator="segments")
    assert fit.train_rows >= card.most() - 1
    within_bounds(fit)


@given(gib=st.floats(6.0, 80.0), flat=st.floats(3000.0, 4600.0))
@settings(max_examples=100, deadline=None)
def test_a_peak_that_hides_the_first_rows_does_not_mislead(gib: float, flat: float) -> None:
    """Unfused optimisers have one; a naive line then predicts many times too much."""
    card = PaperCard(total=gib * 1024, flat=flat)
    fit = fitted(card)
    within_bounds(fit)
    assert fit.train_rows >= min(card.most() - 1, 0.9 * card.most())


@given(gib=st.floats(8.0, 80.0), at=st.integers(2, 60), extra=st.floats(0.0, 3000.0))
@settings(max_examples=100, deadline=None)
def test_a_kernel_that_takes_more_from_some_size_on(gib: float, at: int, extra: float) -> None:
    card = PaperCard(total=gib * 1024, kernels=lambda rows: extra if rows >= at else 0.0)
    fit = fitted(card)
    assert fit.steps <= 4
    assert fit.ooms <= 2  # from two rows on, all other lengths meet it too
    assert card.holds(fit.train_rows, 512)
    assert fit.train_rows >= 0.6 * min(card.most(), at - 1)


def test_limits_from_a_fit_hold_at_every_length() -> None:
    card = PaperCard(total=24 * 1024)
    fit = fitted(card)
    limits = Limits.under(fit.model, fit.cap)
    assert limits.max_rows(512) == fit.train_rows
    for length in range(8, 513, 8):
        rows = min(limits.max_rows(length), MOST_ROWS)
        assert card.holds(rows, length), length
        # and the room is used: a fifth more rows would not be admitted by the card
        if rows < MOST_ROWS and length >= 64:
            assert not card.holds(int(1.25 * rows) + 1, length), length


def test_evaluation_is_verified_and_larger() -> None:
    card = PaperCard(total=24 * 1024)
    fit = fitted(card)
    assert fit.evaluate_rows > 5 * fit.train_rows
    assert Limits.under(fit.model, fit.cap).evaluate.max_rows(512) == fit.evaluate_rows


class MomentCard(PaperCard):
    """Kernels of evaluation hold the more for a moment, the fewer the rows."""

    def evaluate(self, rows: int, length: int) -> Measurement:
        kept = 0.75 * self.resident
        activations = rows * length * 0.2 + 1500.0 * min(1.0, rows * length / 8192)
        return self._measure(rows, length, kept + activations, 0.0)


def test_short_pairs_are_many_where_evaluation_is_no_straight_line() -> None:
    fit = fitted(MomentCard(total=12 * 1024))
    bound = Limits.under(fit.model, fit.cap).evaluate
    assert bound.max_rows(512) == fit.evaluate_rows < 256
    assert bound.max_rows(128) > 2 * fit.evaluate_rows


def test_another_headroom_is_arithmetic() -> None:
    card = PaperCard(total=48 * 1024, gaps=0.01, page=2.0)
    model = fitted(card).model
    for share in (0.05, 0.2, 0.4, 0.6):
        other = PaperCard(total=48 * 1024, gaps=0.01, page=2.0, headroom=share)
        other.set_cap(other.current_cap())
        assert abs(Limits.under(model, other.cap).max_rows(512) - other.most()) <= 1


def test_nothing_fits_but_a_shorter_input_does() -> None:
    card = PaperCard(total=4 * 1024, headroom=0.05)
    with pytest.raises(MachineError, match=r"512 tokens does not fit in 3\.3 GiB") as e:
        fitted(card)
    longest = max(length for length in range(8, 512, 8) if card.holds(1, length))
    assert longest < 256
    assert f"one of {longest} does" in e.value.message
    assert f"`model.max_length` to {longest}" in e.value.hint


def test_nothing_fits_at_all() -> None:
    with pytest.raises(MachineError, match="not even the shortest pair fits"):
        fitted(PaperCard(total=2 * 1024))


def test_exactly_one_fits() -> None:
    card = PaperCard(total=1024 * 5.0, headroom=0.15)
    assert card.most() == 0  # no cap yet
    card.set_cap(card.current_cap())
    assert card.most() == 1
    fit = fitted(card)
    assert fit.train_rows == 1
    assert Limits.under(fit.model, fit.cap).max_rows(512) == 1


def test_a_driver_that_spills_is_judged_by_what_was_reserved() -> None:
    """Windows moves memory to the host instead of failing, at a tenth of the speed."""
    plain, spilling = PaperCard(total=16 * 1024), PaperCard(total=16 * 1024, spills=True)
    assert fitted(spilling).train_rows == fitted(plain).train_rows == plain.most()


def test_a_neighbour_that_takes_memory_meanwhile() -> None:
    def arrive(card: PaperCard) -> None:
        if len(card.tried) == 4:
            card.others = 4000.0

    card = PaperCard(total=24 * 1024, before_each=arrive)
    fit = fitted(card)
    assert fit.contended
    assert fit.cap == card.current_cap() < 18 * GIB
    assert not fit.verified
    assert Limits.under(fit.model, fit.cap).max_rows(512) < fit.train_rows


def test_a_neighbour_that_leaves_meanwhile() -> None:
    """Free memory that rises is no error; the answer holds for the cap it was found under."""

    def leave(card: PaperCard) -> None:
        if len(card.tried) == 2:
            card.others = 0.0

    card = PaperCard(total=24 * 1024, others=6000.0, before_each=leave)
    fit = fitted(card)
    assert fit.contended
    assert fit.verified
    assert fit.cap < card.current_cap()


def test_no_more_than_anybody_needs() -> None:
    card = PaperCard(total=80 * 1024, row=0.1, token=0.01, pair=0.0)
    fit = fitted(card, max_length=128)
    assert fit.train_rows == MOST_ROWS
    assert max(rows for rows, _ in card.tried) <= MOST_ROWS


@pytest.mark.parametrize("max_length", [8, 16, 40, 64, 512, 514])
def test_every_longest_input(max_length: int) -> None:
    card = PaperCard(total=8 * 1024)
    fit = fitted(card, max_length=max_length)
    assert card.most(max_length) - 1 <= fit.train_rows <= card.most(max_length)
    within_bounds(fit)
    assert fit.model.max_length == max_length
