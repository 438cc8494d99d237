"""Finds what fits in few steps: measures two, draws the line, and proves where it meets the cap.

At one length the requested bytes are exactly linear in the rows, so two steps give the line and
bisection would only waste steps. What the allocator reserves lies above the line by an amount that
is not linear, and part of it comes back where memory is short; a size is the answer only when a
real step of it stayed within the cap. One more row is tried too, unless the line excludes it or
the steps are spent. Three further steps serve all other lengths and evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from criteria_cli.errors import MachineError
from criteria_cli.training.batches import LENGTH_MULTIPLE, padded_length
from criteria_cli.training.curves import at_shorter, fit_curve, row_curve, scaled
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
MOST_STEPS = 4
"""Steps that look for the largest micro-batch; the last ones only decide between neighbours."""
FURTHER_STEPS = 3
_CAREFUL_FILL = 0.9
"""The most that many short rows may fill where memory ran out once: not a second time."""
_SHORT_ROWS = 32
_PACKED_ROWS = 256
_KEPT = 0.02
"""What an allocator keeps at least, of the activations, where memory is short; as the next, it was
seen on simulated cards, and only chooses which sizes are tried."""
_RECOVERED = {"expandable": 0.03, "segments": 0.2}
"""What it keeps beyond that, of the activations, only as long as memory is not short."""


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
        points = [(self.length, line.row), *self._short(line, largest.rows)]
        scored = self._evaluation(largest)
        base = min(self._resident(gradients=False), scored.requested)
        model = self._packed(
            MemoryModel(
                max_length=self.length,
                train=replace(row_curve(points), base=line.base),
                evaluate=_from_base(base, scored),
                optimizer_peak=max(seen.optimizer for seen in self.trained),
                train_seconds=Curve(),
                evaluate_seconds=Curve(),
                allocator=self.allocator,
                reserve_ratio=_ratio(largest),
                evaluate_reserve_ratio=_ratio(scored),
                train_fill=self.fill,
                evaluate_fill=self.fill,
                verified_cap=self.cap,
                verified_rows=largest.rows,
                verified_evaluate_rows=scored.rows,
                resident=self.meter.resident_bytes(),
            ),
            points,
            steps,
        )
        seconds = _seconds(self.trained)
        faster = scored.seconds / max(1e-12, seconds.at(scored.rows, self.length))
        model = replace(
            model,
            evaluate=at_shorter(model.evaluate, model.train, self.length),
            train_seconds=seconds,
            evaluate_seconds=scaled(seconds, faster),
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
        kept = low.reserved - low.requested
        resident = self._resident()
        # what is resident is the least that the constant can be, so the slope is at most this
        steepest = max(1.0, float(low.requested - resident))
        line, growth = Curve(base=low.requested - steepest, row=steepest), 0.0
        high, ran_out, missed = MOST_ROWS + 1, False, False

        def reach(share: float, over: Curve) -> int:
            return int((self.cap - kept - over.base) / (over.row * (1.0 + share)))

        while high - low.rows > 1 and len(self.trained) < MOST_STEPS:
            # the line alone excludes all above this, whatever the allocator does
            top = min(high - 1, int((self.cap - line.base) / line.row))
            if len(self.trained) == 1:
                # near the top, but surely inside: where it fails, little is learnt
                rows = max(2, min(top, reach(0.05, line)))
            elif top <= low.rows:
                break
            elif missed:
                rows = min(top, self._below(low, high, line))
                if ran_out:  # a second error is avoided: as many as the most cautious line says
                    cautious = _from_base(min(resident, low.requested), low)
                    rows = min(rows, reach(_KEPT, cautious))
                    if self.allocator == "expandable":
                        rows = min(rows, reach(growth, line))
                if rows <= low.rows:
                    if ran_out:
                        break
                    rows = low.rows + 1
            else:
                share = max(_KEPT, growth - _RECOVERED.get(self.allocator, 0.0))
                rows = max(low.rows + 1, min(top, reach(share, line)))
                left = int((self.cap - low.reserved) / (line.row * (1.0 + growth)))
                if len(self.trained) == MOST_STEPS - 1 and left > 2:
                    rows = min(top, max(rows, low.rows + left))  # one more would prove little
            seen = self._train(rows, self.length)
            if seen.fits:
                line = _through(low, seen, steepest)
                grown = seen.reserved - seen.requested - kept
                growth = max(0.0, grown / max(1.0, (seen.rows - 1) * line.row))
                low = seen
            else:
                high, missed, ran_out = rows, True, ran_out or seen.out_of_memory
        return line, low

    def _below(self, low: Measurement, high: int, line: Curve) -> int:
        """The next size below one that failed: by a hundredth of the cap, or by the middle."""
        if low.rows == 1:
            return (low.rows + high) // 2
        return high - max(1, min((high - low.rows) // 2, round(0.01 * self.cap / line.row)))

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

    def _short(self, line: Curve, largest: int) -> list[tuple[int, float]]:
        """Bytes of a very short row: costs are convex in the length, so between it and the
        longest none is above the straight line."""
        length = min(2 * LENGTH_MULTIPLE, padded_length(self.length // 2, self.length))
        if length >= self.length:
            return []
        # enough that activations, not parameters, make the peak, and few enough on any card
        rows = min(_SHORT_ROWS, 4 * largest, max(1, largest * self.length // (2 * length)))
        return self._point(self._train(rows, length), line.base)

    def _packed(
        self, model: MemoryModel, points: list[tuple[int, float]], steps: int
    ) -> MemoryModel:
        """Run many rows of a middle length: as many as admitted so far, which tells their cost."""
        lengths = [padded_length(self.length // part, self.length) for part in (4, 2)]
        new = [length for length in lengths if length not in dict(points)]
        if not new or len(self.trained) + len(self.evaluated) - steps >= FURTHER_STEPS:
            return model
        if any(seen.out_of_memory for seen in (*self.trained, *self.evaluated)):
            model = replace(model, train_fill=min(model.train_fill, _CAREFUL_FILL))
        rows = Limits.under(model, self.cap).max_rows(new[0])
        seen = self._train(min(rows, _PACKED_ROWS), new[0])
        points = points + self._point(seen, model.train.base)
        fill = model.train_fill if seen.fits else 0.9 * model.train_fill
        curve = replace(row_curve(points), base=model.train.base)
        return replace(model, train=curve, train_fill=fill)

    def _point(self, seen: Measurement, base: float) -> list[tuple[int, float]]:
        return [(seen.length, _from_base(base, seen).row)] if not seen.out_of_memory else []

    # -- evaluation --------------------------------------------------------------------------

    def _evaluation(self, trained: Measurement) -> Measurement:
        """The step that proves an evaluation micro-batch: not the largest, a good deal less.

        Training keeps the activations of every layer that learns, evaluation those of one; twice
        a layer's share leaves room for what its kernels hold for a moment.
        """
        a_row = max(1.0, (trained.requested - self._resident()) / trained.rows)
        share = min(1.0, 2.0 / self.meter.layers)
        room = self.fill * (self.cap - self._resident(gradients=False))
        rows = min(EVALUATION_ROWS, max(1, int(room / (share * a_row))))
        seen = self._evaluate(rows, self.length)
        while not seen.fits and seen.rows > 1:
            seen = self._evaluate(seen.rows // 2, self.length)
        if not seen.fits:
            raise self._does_not_fit()
        return seen

    def _resident(self, *, gradients: bool = True) -> int:
        held = self.meter.resident_bytes()
        return sum(held.values()) - (0 if gradients else held["gradients"])


def _from_base(base: float, seen: Measurement) -> Curve:
    """The line from a known base to a measured step."""
    return Curve(base=base, row=max(1.0, (seen.requested - base) / seen.rows))


def _through(low: Measurement, high: Measurement, steepest: float) -> Curve:
    """The line through two measured steps at one length, its slope within reason."""
    slope = (high.requested - low.requested) / (high.rows - low.rows)
    slope = min(steepest, max(1.0, slope))
    return Curve(base=high.requested - high.rows * slope, row=slope)


def _ratio(seen: Measurement) -> float:
    return max(1.0, seen.reserved / max(1, seen.requested))


def _seconds(measurements: Sequence[Measurement]) -> Curve:
    timed = [(one.rows, one.length, one.seconds) for one in measurements if one.seconds > 0]
    return fit_curve(timed, ("base", "token", "pair"))
