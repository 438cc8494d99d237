"""Finds what fits in few steps: measures two, draws the line, and proves where it meets the cap.

At one length the requested bytes are exactly linear in the rows, so two steps give the line and
bisection would only waste steps. What the allocator reserves lies above the line by an amount that
is not linear, least of all where it takes whole segments; it is learnt from the steps that verify.
A size is the answer when a real step of it stayed within the cap and one more row would not:
because the line alone is above the cap, or because it was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from criteria_cli.errors import MachineError
from criteria_cli.training.batches import LENGTH_MULTIPLE, padded_length
from criteria_cli.training.curves import fit_curve, row_curve
from criteria_cli.training.measuring import Measurement, Meter
from criteria_cli.training.memory import (
    EXPANDABLE_FILL,
    SEGMENTS_FILL,
    Curve,
    Limits,
    MemoryModel,
)

CONTENTION_BYTES = 256 * 2**20
"""Free memory that moves by more than this during a probe was moved by somebody else."""
EVALUATION_ROWS = 256
"""Larger evaluation micro-batches are no faster."""
MOST_ROWS = 256
"""Larger micro-batches are not looked for: no batch needs them and none is faster."""
_SECOND_ROWS = 32
_SHORT_ROWS = 32
_PACKED_ROWS = 256


@dataclass(frozen=True)
class Fit:
    """What a probe found."""

    model: MemoryModel
    cap: int
    train_rows: int
    """The largest micro-batch at full length, run and within the cap."""
    evaluate_rows: int
    steps: int
    """Measured steps that it took to find `train_rows`."""
    ooms: int
    """Out-of-memory errors among all steps, each contained."""
    further_steps: int
    """Measured steps for the other lengths and for evaluation."""
    verified: bool
    contended: bool
    """Others took or freed memory meanwhile: true now, not to be kept."""
    measurements: tuple[Measurement, ...]


def fit_memory(
    meter: Meter,
    max_length: int,
    current_cap: Callable[[], int],
    *,
    allocator: str,
) -> Fit:
    """Fit a memory model and find the largest micro-batches under the cap.

    Args:
        meter: measures steps; is told the cap.
        current_cap: free and own memory less the headroom, asked again at the end.
        allocator: `expandable` or `segments`.

    Raises:
        MachineError: not even one row of `max_length` fits, naming the length that does.
    """
    return _Search(meter, max_length, current_cap, allocator).run()


class _Search:
    def __init__(
        self, meter: Meter, max_length: int, current_cap: Callable[[], int], allocator: str
    ) -> None:
        self.meter = meter
        self.length = max_length
        self.current_cap = current_cap
        self.cap = current_cap()
        self.allocator = allocator
        self.fill = EXPANDABLE_FILL if allocator == "expandable" else SEGMENTS_FILL
        self.trained: list[Measurement] = []
        self.evaluated: list[Measurement] = []

    def run(self) -> Fit:
        self.meter.set_cap(self.cap)
        line, largest = self._largest()
        steps = len(self.trained)
        train = self._by_length(line, largest.rows)
        evaluate, scored = self._evaluation(largest.rows)
        model = self._packed(
            MemoryModel(
                max_length=self.length,
                train=train,
                evaluate=evaluate,
                optimizer_peak=max(seen.optimizer for seen in self.trained),
                train_seconds=_seconds(self.trained),
                evaluate_seconds=_seconds(self.evaluated),
                allocator=self.allocator,
                reserve_ratio=_ratio(largest),
                evaluate_reserve_ratio=_ratio(scored),
                train_fill=self.fill,
                evaluate_fill=self.fill,
                verified_cap=self.cap,
                verified_rows=largest.rows,
                verified_evaluate_rows=scored.rows,
                resident=self.meter.resident_bytes(),
            )
        )
        cap_now = self.current_cap()
        seen = (*self.trained, *self.evaluated)
        return Fit(
            model=model,
            cap=min(self.cap, cap_now),
            train_rows=largest.rows,
            evaluate_rows=scored.rows,
            steps=steps,
            ooms=sum(one.out_of_memory for one in seen),
            further_steps=len(seen) - steps,
            verified=largest.reserved <= cap_now,
            contended=abs(cap_now - self.cap) > CONTENTION_BYTES,
            measurements=seen,
        )

    def _train(self, rows: int, length: int) -> Measurement:
        self.trained.append(self.meter.train(rows, length))
        return self.trained[-1]

    def _evaluate(self, rows: int, length: int) -> Measurement:
        self.evaluated.append(self.meter.evaluate(rows, length))
        return self.evaluated[-1]

    # -- the largest training micro-batch ----------------------------------------------------

    def _largest(self) -> tuple[Curve, Measurement]:
        """The line at full length, and the step that proves the answer."""
        low = self._train(1, self.length)
        if not low.fits:
            raise self._does_not_fit()
        # what is resident is the least that the constant can be, so the slope is at most this
        steepest = max(1.0, float(low.requested - sum(self.meter.resident_bytes().values())))
        line = Curve(base=low.requested - steepest, row=steepest)
        reserved = Curve(base=low.reserved - steepest, row=steepest)
        high, ups, downs = MOST_ROWS + 1, 0, 0
        while high - low.rows > 1:
            # the line alone excludes all above this, whatever the allocator does
            top = min(high - 1, int((self.cap - line.base) / line.row))
            reach = min(top, int((self.cap - reserved.base) / reserved.row))
            if self.allocator != "expandable":
                # whole segments are kept: few rows reserve a larger share than many need
                reach = top - max(0, top - reach) // 4
            if len(self.trained) == 1:
                # far enough that a bend near the first row does not matter, and inside the cap
                rows = max(2, min(_SECOND_ROWS, 1 + reach // 2))
            elif downs:
                # back by 1, then 2, 4, ...; where little is left, to its middle at once
                middle = low.rows + (high - low.rows) // 2
                little = high - low.rows <= low.rows // 8
                rows = middle if little else max(middle, high - (1 << downs - 1))
            elif top <= low.rows:
                break
            elif reach > low.rows:
                rows = reach
            else:
                rows = min(top, low.rows + (1 << ups))  # one more, which should not fit
                ups += 1
            seen = self._train(rows, self.length)
            if seen.fits:
                downs = 0
                line = _through(low.rows, low.requested, rows, seen.requested, steepest)
                reserved = _through(low.rows, low.reserved, rows, seen.reserved, 2 * steepest)
                low = seen
            else:
                high, downs = rows, downs + 1
        return line, low

    def _does_not_fit(self) -> MachineError:
        """The error for a card that holds not one pair, with the longest pair that it holds."""
        fits, fails = 0, self.length
        while fails - fits > LENGTH_MULTIPLE:
            length = padded_length((fits + fails) // 2, fails - 1)
            if self._train(1, length).fits:
                fits = length
            else:
                fails = length
        gib = f"{self.cap / 2**30:.1f} GiB"
        if fits == 0:
            return MachineError(
                f"not even the shortest pair fits in {gib}",
                hint="use a smaller model or a device with more memory",
                code="machine.memory",
            )
        return MachineError(
            f"one pair of {self.length} tokens does not fit in {gib}, one of {fits} does",
            hint=f"set `model.max_length` to {fits}, or use a smaller model or a device with "
            "more memory",
            code="machine.memory",
        )

    # -- other lengths -----------------------------------------------------------------------

    def _by_length(self, line: Curve, largest: int) -> Curve:
        """The dependence on length, from a few cheap steps; exact at full length."""
        points = [(self.length, line.row)]
        for length in self._shorter():
            # short rows are many: enough that activations, not parameters, make the peak
            rows = min(_SHORT_ROWS, max(1, largest * self.length // (2 * length)))
            seen = self._train(rows, length)
            if seen.fits:
                points.append((length, max(1.0, (seen.requested - line.base) / rows)))
        return replace(row_curve(points), base=line.base)

    def _shorter(self) -> list[int]:
        wanted = (self.length // 2, self.length // 4, 2 * LENGTH_MULTIPLE)
        lengths = {padded_length(length, self.length) for length in wanted}
        return sorted((length for length in lengths if length < self.length), reverse=True)

    def _packed(self, model: MemoryModel) -> MemoryModel:
        """Run many short rows at the limit that the model gives; lower its fill if that fails."""
        length = padded_length(self.length // 4, self.length)
        for _ in range(3):
            rows = Limits.under(model, self.cap).max_rows(length)
            if length == self.length or self._train(min(rows, _PACKED_ROWS), length).fits:
                break
            model = replace(model, train_fill=0.9 * model.train_fill)
        return model

    # -- evaluation --------------------------------------------------------------------------

    def _evaluation(self, largest: int) -> tuple[Curve, Measurement]:
        """The curve of evaluation, and the step that proves its largest micro-batch."""
        few = self._evaluate(largest, self.length)
        while not few.fits and few.rows > 1:
            few = self._evaluate(few.rows // 2, self.length)
        if not few.fits:
            raise self._does_not_fit()
        # without gradients, kernels choose by size what they hold for a moment, and the peak is no
        # straight line: its base is what is known to stay, its slope that of the largest step
        base = sum(self.meter.resident_bytes().values()) - self.meter.resident_bytes()["gradients"]
        base = min(base, few.requested)
        more = self._evaluate(min(EVALUATION_ROWS, 2 * few.rows), self.length)
        proven, reserved = few, Curve(row=few.reserved / few.rows)
        if more.fits and more.rows > few.rows:
            steepest = 2 * few.requested / few.rows
            reserved = _through(few.rows, few.reserved, more.rows, more.reserved, steepest)
            proven = more
        line = _from_base(base, proven)
        # nearly the most that the lines admit: an exact maximum gains nothing here
        admitted = min((self.cap - each.base) / each.row for each in (line, reserved))
        rows, back = min(EVALUATION_ROWS, int(0.97 * admitted)), 0.1
        while rows > proven.rows:
            seen = self._evaluate(rows, self.length)
            if seen.fits:
                proven = seen
            rows = max(proven.rows, int((1 - back) * rows + back * proven.rows))
            back = 0.5
        points = [(self.length, _from_base(base, proven).row)]
        short = padded_length(self.length // 4, self.length)
        if short < self.length:
            points.append((short, _from_base(base, self._evaluate(proven.rows, short)).row))
        return replace(row_curve(points), base=float(base)), proven


def _from_base(base: float, seen: Measurement) -> Curve:
    """The line from a known base to a measured step."""
    return Curve(base=base, row=max(1.0, (seen.requested - base) / seen.rows))


def _through(low: int, at_low: int, high: int, at_high: int, steepest: float) -> Curve:
    """The line through two measured steps at one length, its slope within reason."""
    slope = min(steepest, max(1.0, (at_high - at_low) / (high - low)))
    return Curve(base=at_high - high * slope, row=slope)


def _ratio(seen: Measurement) -> float:
    return max(1.0, seen.reserved / max(1, seen.requested))


def _seconds(measurements: Sequence[Measurement]) -> Curve:
    timed = [(one.rows, one.length, one.seconds) for one in measurements if one.seconds > 0]
    return fit_curve(timed, ("base", "token", "pair"))
