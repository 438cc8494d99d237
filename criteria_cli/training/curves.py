"""Fits `Curve`s to measured points: few coefficients, none below zero."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from criteria_cli.training.memory import Curve

TERMS = ("base", "row", "token", "pair")


def fit_curve(points: Sequence[tuple[int, int, float]], terms: Sequence[str] = TERMS) -> Curve:
    """The curve with the least relative error over `(rows, length, value)` points.

    Non-negative least squares by trying every set of terms, which for four is exact and cheap.

    Raises:
        ValueError: no points.
    """
    if not points:
        raise ValueError("a curve needs at least one point")
    rows, lengths, values = (
        np.array(column, dtype=np.float64) for column in zip(*points, strict=True)
    )
    columns = {
        "base": np.ones_like(rows),
        "row": rows,
        "token": rows * lengths,
        "pair": rows * lengths**2,
    }
    weight = 1.0 / np.maximum(values, 1e-12)
    best: tuple[float, dict[str, float]] | None = None
    for count in range(1, min(len(terms), len(points)) + 1):
        for chosen in itertools.combinations(terms, count):
            found = _solve([columns[name] * weight for name in chosen], values * weight)
            if found is None:
                continue
            error, coefficients = found
            # a further term must earn its place
            if best is None or error < 0.999 * best[0] - 1e-12:
                best = error, dict(zip(chosen, coefficients, strict=True))
    assert best is not None, "one positive term always fits positive values"
    return Curve(**best[1])


def _solve(
    columns: Sequence[NDArray[np.float64]], values: NDArray[np.float64]
) -> tuple[float, list[float]] | None:
    """Squared error and coefficients, or None where one of them is negative."""
    scales = [float(np.abs(column).max()) or 1.0 for column in columns]
    matrix = np.stack([column / scale for column, scale in zip(columns, scales, strict=True)], 1)
    solution, *_ = np.linalg.lstsq(matrix, values, rcond=None)
    if (solution < 0).any():
        return None
    error = float(((matrix @ solution - values) ** 2).sum())
    return error, [float(x / scale) for x, scale in zip(solution, scales, strict=True)]


def row_curve(points: Sequence[tuple[int, float]]) -> Curve:
    """Bytes of one row by its length, from `(length, bytes)`, and nowhere below a point."""
    # the earlier of equally good terms count: of all curves through two points those by token are
    # the highest between them
    curve = fit_curve([(1, length, value) for length, value in points], ("token", "row", "pair"))
    short = max(value - curve.per_row(length) for length, value in points)
    return Curve(row=curve.row + max(0.0, short), token=curve.token, pair=curve.pair)


def at_shorter(full: Curve, train: Curve, length: int) -> Curve:
    """Evaluation's cost at shorter lengths: what training has for each row, the rest by token."""
    fixed = train.row / max(1.0, train.per_row(length)) * full.row
    return Curve(base=full.base, row=fixed, token=(full.row - fixed) / length)


def scaled(curve: Curve, factor: float) -> Curve:
    return Curve(*(factor * each for each in (curve.base, curve.row, curve.token, curve.pair)))
