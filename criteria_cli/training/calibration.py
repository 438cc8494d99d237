"""From scores to probabilities and decisions: temperature, thresholds, and when to abstain.

Everything here is fitted on the scores of pairs that the model did not learn from, and never
scored on the pairs it was fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.integer]
Flags = NDArray[np.bool_]

RARE = 20
"""A criterion with fewer positive pairs to fit on is decided by the threshold of all of them."""
_TEMPERATURES = (0.05, 20.0)
_STEPS = 50
_PRIOR = 1.0
"""Log-loss that a slope of 0 or 2 costs, twice."""


@dataclass(frozen=True)
class Calibration:
    """How a score becomes a probability, and a probability a decision."""

    temperature: float = 1.0
    """Log-odds are divided by it."""
    bias: float = 0.0
    """And this is added: a weighted loss shifts every score."""
    threshold: float = 0.5
    """A probability above it is a positive decision."""
    thresholds: Mapping[str, float] | None = None
    """Thresholds of single criteria, by id; the others, the rare ones, have `threshold`."""
    abstain_margin: float = 0.0
    """How near its threshold, in log-odds, a probability is too uncertain to decide by."""

    def probabilities(self, scores: NDArray[np.floating]) -> Floats:
        """Probabilities (pairs,) of the positive class, from scores (pairs,)."""
        return _sigmoid(np.asarray(scores, dtype=np.float64) / self.temperature + self.bias)

    def limits(self, criterion: Integers, criteria: Sequence[str]) -> Floats:
        """The threshold (pairs,) of each pair, given its criterion's index in `criteria`."""
        own = self.thresholds or {}
        by_criterion = np.array([own.get(name, self.threshold) for name in criteria])
        return by_criterion[np.asarray(criterion)]

    def uncertain(self, probabilities: Floats, limits: Floats) -> Flags:
        """Which pairs (pairs,) lie within the margin of their threshold."""
        return np.abs(log_odds(probabilities) - log_odds(limits)) < self.abstain_margin

    def to_json(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "bias": self.bias,
            "threshold": self.threshold,
            "thresholds": dict(self.thresholds or {}),
            "abstain_margin": self.abstain_margin,
        }

    def check(self) -> None:
        """Raise ValueError unless every number is finite and the temperature above 0."""
        numbers = (self.temperature, self.bias, self.threshold, self.abstain_margin)
        finite = np.isfinite([*numbers, *(self.thresholds or {}).values()]).all()
        if not finite or self.temperature <= 0:
            raise ValueError("a calibration needs finite numbers and a temperature above 0")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        return cls(
            temperature=float(value["temperature"]),
            bias=float(value["bias"]),
            threshold=float(value["threshold"]),
            thresholds={str(name): float(at) for name, at in value["thresholds"].items()},
            abstain_margin=float(value["abstain_margin"]),
        )


def fit_calibration(
    scores: NDArray[np.floating], labels: Integers, criterion: Integers, criteria: Sequence[str]
) -> Calibration:
    """The calibration of held-out scores (pairs,) with labels (pairs,) of 0 and 1.

    Thresholds maximise F1: of a criterion with at least `RARE` positive pairs on its own pairs, of
    all the others on all pairs. The margin is the smallest one outside which decisions are wrong
    half as often as overall (selective classification; Geifman and El-Yaniv, 2017).
    """
    positive = np.asarray(labels) == 1
    temperature, bias = fit_temperature(scores, positive)
    plain = Calibration(temperature, bias)
    probabilities = plain.probabilities(scores)
    threshold = best_threshold(probabilities, positive)
    thresholds = {}
    for index, name in enumerate(criteria):
        rows = np.asarray(criterion) == index
        if positive[rows].sum() >= RARE:
            thresholds[name] = best_threshold(probabilities[rows], positive[rows])
    fitted = Calibration(temperature, bias, threshold, thresholds)
    limits = fitted.limits(criterion, criteria)
    margin = _margin(log_odds(probabilities) - log_odds(limits), positive)
    return Calibration(temperature, bias, threshold, thresholds, margin)


def fit_temperature(scores: NDArray[np.floating], positive: Flags) -> tuple[float, float]:
    """Temperature and bias of least log-loss.

    Temperature scaling (Guo et al., 2017) with an intercept, which is Platt's scaling (1999); with
    his softened targets, so that it is defined even where scores separate the labels, and a prior
    for a temperature of 1 as weak as a few pairs, which decides only where all scores are the same.
    Newton's method on a convex function of two numbers.
    """
    odds: Floats = np.asarray(scores, dtype=np.float64)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    targets = np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    slope, bias = 1.0, 0.0
    loss = _log_loss(slope, bias, odds, targets)
    for _ in range(_STEPS):
        probability = _sigmoid(slope * odds + bias)
        error, weight = probability - targets, probability * (1 - probability) + 1e-12
        gradient = np.array([error @ odds + _PRIOR * (slope - 1), error.sum()])
        hessian = np.array(
            [[weight @ odds**2 + _PRIOR, weight @ odds], [weight @ odds, weight.sum() + 1e-9]]
        )
        move = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-6:
            tried = (slope - size * move[0], bias - size * move[1])
            now = _log_loss(*tried, odds, targets)
            if now <= loss:
                break
            size /= 2
        else:
            break
        done = loss - now < 1e-10
        slope, bias, loss = float(tried[0]), float(tried[1]), now
        if done:
            break
    # a model worse than chance would be turned upside down: keep its direction instead
    lowest, highest = _TEMPERATURES
    return float(np.clip(1 / max(slope, 1 / highest), lowest, highest)), bias


def best_threshold(probabilities: Floats, positive: Flags) -> float:
    """The probability above which calling a pair positive gives the best F1.

    Half way, in log-odds, between the last pair called positive and the first that is not.
    Without a positive pair it is 0.5.
    """
    positives = int(positive.sum())
    if not positives:
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ranked = log_odds(probabilities[order])
    hits = np.cumsum(positive[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + positives)
    possible = np.append(ranked[:-1] > ranked[1:], True)  # no threshold parts equal scores
    last = int(np.argmax(np.where(possible, f1, -1.0)))
    below = ranked[last + 1] if last + 1 < len(ranked) else ranked[last] - 1.0
    return float(_sigmoid(np.array((ranked[last] + below) / 2)))


def _margin(distances: Floats, positive: Flags) -> float:
    """The margin around the thresholds that halves the share of wrong decisions outside it."""
    wrong = (distances > 0) != positive
    if not wrong.any():
        return 0.0
    order = np.argsort(-np.abs(distances), kind="stable")
    rate = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
    kept = np.flatnonzero(rate <= wrong.mean() / 2)
    if not kept.size:
        return float(np.abs(distances).max())
    return float(np.abs(distances[order[kept[-1]]]))


def _log_loss(slope: float, bias: float, scores: Floats, targets: Floats) -> float:
    odds = slope * scores + bias
    return float((np.logaddexp(0, odds) - targets * odds).sum() + _PRIOR / 2 * (slope - 1) ** 2)


def _sigmoid(odds: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -odds))


def log_odds(probabilities: Floats) -> Floats:
    """Log-odds of probabilities, finite at 0 and 1."""
    inside = np.clip(probabilities, 1e-15, 1 - 1e-15)
    return np.log(inside) - np.log1p(-inside)
