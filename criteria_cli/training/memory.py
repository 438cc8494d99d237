"""Peak bytes of a step as a function of its shape, and what therefore fits.

At one length the peak of a training step is linear in its rows: parameters, gradients and
optimiser state are the constant, activations the slope. The slope grows with the length as
`row + token * L + pair * L**2`; the first term is real (DeBERTa repeats the relative positions'
keys for every example). A `MemoryModel` holds the coefficients, which depend on the model, the
precision and the kind of card. `Limits` are what follow from them on one card, now.

This module does arithmetic. It allocates nothing and knows no device but its bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from criteria_cli.study.headroom import Headroom, parse_headroom

__all__ = [
    "Bound",
    "Curve",
    "Headroom",
    "Limits",
    "MemoryModel",
    "cap_bytes",
    "parse_headroom",
    "whole_batches",
]

EXPANDABLE_FILL = 0.97
"""How much of the memory left for activations micro-batches of mixed lengths may fill where the
allocator can grow its segments."""
SEGMENTS_FILL = 0.85
"""The same where it cannot, and blocks of many sizes leave gaps."""
CPU_TOKENS = 2048
"""Padded tokens of a micro-batch on a processor: larger ones leave its caches and gain nothing."""
_UNBOUNDED = 2**40


@dataclass(frozen=True)
class Curve:
    """A quantity per micro-batch: `base + rows * (row + token * length + pair * length**2)`."""

    base: float = 0.0
    row: float = 0.0
    token: float = 0.0
    pair: float = 0.0

    def per_row(self, length: int) -> float:
        return self.row + length * (self.token + length * self.pair)

    def at(self, rows: int, length: int) -> float:
        return self.base + rows * self.per_row(length)


@dataclass(frozen=True)
class MemoryModel:
    """What steps of one model in one precision need on one kind of device."""

    max_length: int
    """The longest input, in tokens, that was measured."""
    train: Curve
    """Peak requested bytes of a training step with gradients held."""
    evaluate: Curve
    """The same of an evaluation step while the training state is resident."""
    optimizer_peak: int
    """Peak requested bytes of the optimiser's step, whatever the micro-batch."""
    train_seconds: Curve
    evaluate_seconds: Curve
    allocator: str
    """`expandable`, `segments` or `system`."""
    reserve_ratio: float = 1.0
    """Reserved over requested bytes at the largest verified step."""
    evaluate_reserve_ratio: float = 1.0
    train_fill: float = EXPANDABLE_FILL
    """The share of the memory for activations that training micro-batches may fill."""
    evaluate_fill: float = EXPANDABLE_FILL
    verified_cap: int = 0
    """The cap under which the following were run and fitted; 0 if nothing was run."""
    verified_rows: int = 0
    verified_evaluate_rows: int = 0
    source: Literal["measured", "assumed"] = "measured"
    resident: Mapping[str, int] = field(default_factory=dict)
    """Bytes that stay on the device whatever the batch: parameters, gradients, optimizer."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MemoryModel:
        fields = dict(value)
        for name in ("train", "evaluate", "train_seconds", "evaluate_seconds"):
            fields[name] = Curve(**fields[name])
        return cls(**fields)


@dataclass(frozen=True)
class Bound:
    """Which micro-batches a device admits in one phase, and what each costs."""

    row_bytes: Curve
    """Bytes of one row by its length; `base` is not counted here."""
    seconds: Curve
    budget: float
    """Bytes that the rows of a micro-batch may take together."""
    full_rows: int
    """Rows that fit at `max_length`, and so at any length."""
    max_length: int
    tokens: int = _UNBOUNDED
    """Padded tokens beyond which a micro-batch gains nothing."""

    def max_rows(self, length: int) -> int:
        """The most rows at this padded length; at least 1, for less cannot be run."""
        by_memory = max(self.full_rows, int(min(_UNBOUNDED, self.budget / self._row(length))))
        return max(1, min(by_memory, self.tokens // length))

    def fits(self, rows: int, length: int) -> bool:
        return rows <= self.max_rows(length)

    def cost(self, rows: int, length: int) -> float:
        """Seconds of one micro-batch, as far as they are known."""
        return self.seconds.at(rows, length)

    def lower(self, rows: int, length: int) -> Bound:
        """A bound that admits at most `rows` at `length`, and nowhere more bytes than that."""
        allowed = rows * self._row(length)
        full = min(self.full_rows, int(min(_UNBOUNDED, allowed / self._row(self.max_length))))
        return replace(self, budget=min(self.budget, allowed), full_rows=max(1, full))

    def _row(self, length: int) -> float:
        return max(1.0, self.row_bytes.per_row(length))


@dataclass(frozen=True)
class Limits:
    """What fits on one device now."""

    model: MemoryModel
    cap: int
    """Bytes this process may hold."""
    train: Bound
    evaluate: Bound

    @classmethod
    def under(cls, model: MemoryModel, cap: int) -> Limits:
        """The limits that a memory model gives under a cap."""
        return cls(
            model=model,
            cap=cap,
            train=_bound(model, cap, evaluation=False),
            evaluate=_bound(model, cap, evaluation=True),
        )

    def fits(self, rows: int, length: int) -> bool:
        """Whether a training micro-batch of this shape is expected to fit."""
        return self.train.fits(rows, length)

    def max_rows(self, length: int) -> int:
        """The largest training micro-batch at this padded length."""
        return self.train.max_rows(length)

    def cost(self, rows: int, length: int) -> float:
        """Seconds of a training micro-batch."""
        return self.train.cost(rows, length)

    def longest(self, *, below: int) -> int:
        """The longest input of which one row is expected to fit, a multiple of 8; 0 if none."""
        room = self.cap / self.model.reserve_ratio
        for length in range((below - 1) // 8 * 8, 0, -8):
            if self.model.train.at(1, length) <= room:
                return length
        return 0

    def with_evaluation_rows(self, rows: int) -> Limits:
        """The same, with evaluation micro-batches of at most `rows` at any length."""
        bound = replace(self.evaluate, full_rows=rows, budget=0.0)
        return replace(self, evaluate=bound)

    def lower(
        self, rows: int, length: int, *, evaluation: bool = False, remember: bool = True
    ) -> Limits:
        """Limits that admit at most `rows` at `length`, because more ran out of memory.

        Args:
            remember: whether the memory model learns from it, as a smaller fill that holds for
                other caps too; not where others took the memory.
        """
        if evaluation:
            bound = self.evaluate.lower(rows, length)
            lowered = replace(self, evaluate=bound)
        else:
            bound = self.train.lower(rows, length)
            lowered = replace(self, train=bound)
        if not remember:
            return lowered
        return replace(lowered, model=self._remembered(bound, evaluation=evaluation))

    def _remembered(self, bound: Bound, *, evaluation: bool) -> MemoryModel:
        model = self.model
        curve = model.evaluate if evaluation else model.train
        room = _room(model, self.cap, evaluation=evaluation)
        if not math.isfinite(bound.budget) or room <= 0:
            return model
        if model.verified_cap:  # what else is admitted under this cap counts as proven here
            here = Limits.under(model, self.cap)
            model = replace(
                model,
                verified_cap=self.cap,
                verified_rows=here.train.full_rows,
                verified_evaluate_rows=here.evaluate.full_rows,
            )
        # the ratio at which the line at full length ends half a row above what is admitted
        half_a_row = 0.5 * curve.per_row(model.max_length)
        ratio = self.cap / (curve.at(bound.full_rows, model.max_length) + half_a_row)
        if evaluation:
            lowered = replace(
                model,
                evaluate_reserve_ratio=max(model.evaluate_reserve_ratio, ratio),
                verified_evaluate_rows=min(model.verified_evaluate_rows, bound.full_rows),
            )
            room = _room(lowered, self.cap, evaluation=True)
            return replace(lowered, evaluate_fill=min(model.evaluate_fill, bound.budget / room))
        lowered = replace(
            model,
            reserve_ratio=max(model.reserve_ratio, ratio),
            verified_rows=min(model.verified_rows, bound.full_rows),
        )
        room = _room(lowered, self.cap, evaluation=False)
        return replace(lowered, train_fill=min(model.train_fill, bound.budget / room))


def cap_bytes(free_bytes: int, own_bytes: int, headroom: int) -> int:
    """The bytes this process may hold: what is free or already its own, less the headroom."""
    return max(0, free_bytes + own_bytes - headroom)


def largest_rows(model: MemoryModel, cap: int, *, evaluation: bool = False) -> int:
    """Rows at full length whose reserved bytes the model expects within `cap`; 0 if none."""
    if not evaluation and model.optimizer_peak > cap / model.reserve_ratio:
        return 0
    curve = model.evaluate if evaluation else model.train
    room = _room(model, cap, evaluation=evaluation)
    return int(room / max(1.0, curve.per_row(model.max_length)))


def _room(model: MemoryModel, cap: int, *, evaluation: bool) -> float:
    """Bytes that rows may ask for together, so that what is reserved for them meets the cap."""
    if evaluation:
        return max(0.0, cap / model.evaluate_reserve_ratio - model.evaluate.base)
    return max(0.0, cap / model.reserve_ratio - model.train.base)


def _bound(model: MemoryModel, cap: int, *, evaluation: bool) -> Bound:
    curve = model.evaluate if evaluation else model.train
    fill = model.evaluate_fill if evaluation else model.train_fill
    verified = model.verified_evaluate_rows if evaluation else model.verified_rows
    full = largest_rows(model, cap, evaluation=evaluation)
    if model.verified_cap:
        # proven under that cap: not more under a smaller one, and under a larger one as many more
        # as the line says
        ratio = model.evaluate_reserve_ratio if evaluation else model.reserve_ratio
        more = (cap - model.verified_cap) / (ratio * max(1.0, curve.per_row(model.max_length)))
        full = verified + int(more) if more >= 0 else min(full, verified)
    # nowhere more bytes than rows at full length are admitted to take
    admitted = (max(1, full) + 0.99) * max(1.0, curve.per_row(model.max_length))
    return Bound(
        row_bytes=replace(curve, base=0.0),
        seconds=model.evaluate_seconds if evaluation else model.train_seconds,
        budget=min(admitted, fill * _room(model, cap, evaluation=evaluation)),
        full_rows=max(1, full),
        max_length=model.max_length,
        tokens=CPU_TOKENS if model.allocator == "system" else _UNBOUNDED,
    )


def whole_batches(max_length: int, *, evaluation_rows: int | None = None) -> Limits:
    """Limits that split nothing: every batch goes through whole, until memory runs out."""
    by_token = Curve(token=1.0)
    model = MemoryModel(
        max_length=max_length,
        train=by_token,
        evaluate=by_token,
        optimizer_peak=0,
        # a micro-batch more costs far more than any padding it saves
        train_seconds=Curve(base=1e9, token=1.0),
        evaluate_seconds=Curve(base=1e3, token=1.0),
        allocator="none",
        train_fill=1.0,
        evaluate_fill=1.0,
        source="assumed",
    )
    limits = Limits(
        model=model,
        cap=_UNBOUNDED,
        train=Bound(by_token, model.train_seconds, math.inf, _UNBOUNDED, max_length),
        evaluate=Bound(by_token, model.evaluate_seconds, math.inf, _UNBOUNDED, max_length),
    )
    return limits if evaluation_rows is None else limits.with_evaluation_rows(evaluation_rows)
