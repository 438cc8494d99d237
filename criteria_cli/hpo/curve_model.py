"""What a study's learning curves have in common, and so what the beginning of one says of its end.

The best score so far y[c, k, e] of trial c in fold k at look e is taken as normal,

    y[c, k, e] = m[k, e] + a[c, e] + b[c, k, e],    a[c] ~ N(0, A),  b[c, k] ~ N(0, B),

m the difficulty of the folds along the epochs, A what differs between trials (their quality, how
fast they rise, and how the one tells of the other), B the noise of a single training run and how
much of an early deviation survives to the fold's end. It is the random-effects model of growth
curves (Laird and Ware, 1982, Biometrics 38) with free covariances, fitted by expectation
maximisation (Dempster, Laird and Rubin, 1977).

Pruning leaves most curves unfinished, and which ones depends on their own beginnings. A curve is
missing only from where it was stopped on, for reasons that stand in its known part, so likelihood
methods are not biased by it (Rubin, 1976, Biometrika 63: missing at random), whereas a regression
of final scores on early ones over finished trials would be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from criteria_cli.hpo.curves import Curves
from criteria_cli.hpo.scores import Bools, Floats

ITERATIONS = 60
PRIOR_TRIALS = 4.0
"""The weight of the prior, in trials: correlations between looks fall off with their distance."""
PRIOR_CORRELATION = 0.8
"""The prior's correlation of neighbouring looks, on top of what the data say."""
RIDGE = 1e-4
"""Added to variances, as a share of their mean, against curves that stand still."""
LEAST_VARIANCE = 1e-8


@dataclass(frozen=True)
class CurveModel:
    """A fitted model of curves with K folds and L looks."""

    mean: Floats
    """(K * L,) m."""
    between: Floats
    """(L, L) A."""
    within: Floats
    """(L, L) B."""
    whole: int
    """How many of the curves it was fitted to were whole."""

    @property
    def looks(self) -> int:
        return len(self.between)

    @property
    def fold_count(self) -> int:
        return len(self.mean) // self.looks

    def covariance_root(self) -> Floats:
        """(K * L, K * L) lower Cholesky factor of a whole curve's covariance."""
        folds, each = self.fold_count, range(self.fold_count)
        whole = np.tile(self.between, (folds, folds))
        whole.reshape(folds, self.looks, folds, self.looks)[each, :, each, :] += self.within
        diagonal = np.diag_indices_from(whole)
        whole[diagonal] += LEAST_VARIANCE + RIDGE * whole[diagonal].mean()
        return np.asarray(np.linalg.cholesky(whole), dtype=np.float64)


@dataclass(frozen=True)
class Forecaster:
    """Forecasts of a trial's final mean over folds from the beginning of its curve."""

    mean: Floats
    inverse_root: Floats
    gains: Floats
    """(K * L,) what one standardised surprise at each look adds to the forecast."""
    prior_mean: float
    prior_sd: float
    """Of the final mean of a trial of which nothing is known."""
    sd: Floats
    """(K * L,) of the final mean, once each look is known; wider by 1 + 1 / whole curves, in
    variance, since the folds' means are estimates themselves."""

    @classmethod
    def of(cls, model: CurveModel) -> Forecaster:
        root = model.covariance_root()
        weights = np.zeros(len(model.mean))
        weights[model.looks - 1 :: model.looks] = 1.0 / model.fold_count
        gains = root.T @ weights
        variance = float(gains @ gains)
        left = np.maximum(variance - np.cumsum(gains**2), 0.0)
        return cls(
            mean=model.mean,
            inverse_root=np.asarray(np.linalg.inv(root), dtype=np.float64),
            gains=gains,
            prior_mean=float(weights @ model.mean),
            prior_sd=float(np.sqrt(variance)),
            sd=np.sqrt(left * (1.0 + 1.0 / model.whole)),
        )

    def forecasts(self, values: Floats) -> Floats:
        """(..., K * L) expected final means of curves `values`, as each further look is known.

        The entry at a look uses the values up to it alone.
        """
        surprises = (values - self.mean) @ self.inverse_root.T
        return self.prior_mean + np.cumsum(surprises * self.gains, axis=-1)


def fit_curves(
    curves: Curves, *, iterations: int = ITERATIONS, start: CurveModel | None = None
) -> CurveModel:
    """Fit the model to curves of which at least three are whole.

    Args:
        start: a model of nearly the same curves, from which fewer iterations are enough.
    """
    model = start or _first_guess(curves)
    whole = int((curves.known == curves.length).sum())
    beginnings = _by_folds_begun(curves)
    for _ in range(iterations):
        model = _improve(model, beginnings, len(curves.known))
    return replace(model, whole=whole)


def _first_guess(curves: Curves) -> CurveModel:
    """Moments of the whole curves, moved to where all trials began."""
    whole = curves.values[curves.known == curves.length]
    mean = whole.mean(axis=0)
    centred = whole - mean
    between, within = _levels(centred.T @ centred / max(len(whole) - 1, 1), curves.looks)
    shift = curves.values[:, 0].mean() - mean[0]
    return CurveModel(mean + shift, between, within, len(whole))


def _by_folds_begun(curves: Curves) -> list[tuple[Floats, Bools]]:
    """Values and which of them are known, of trials in their first fold, in their second, ..."""
    begun = -(-curves.known // curves.looks)
    found = []
    for folds in range(1, curves.fold_count + 1):
        rows, width = begun == folds, folds * curves.looks
        if rows.any():
            known = np.arange(width) < curves.known[rows][:, None]
            found.append((curves.values[rows, :width], known))
    return found


def _improve(model: CurveModel, beginnings: list[tuple[Floats, Bools]], trials: int) -> CurveModel:
    """One step of expectation maximisation.

    With the covariance as L L', a curve is mean + L w with independent w, and the known beginning
    of a curve fixes the beginning of w alone: the rest has expectation 0 and variance 1.
    """
    root = model.covariance_root()
    inverse = np.linalg.inv(root)
    total, squares = np.zeros(len(root)), np.zeros_like(root)
    for values, known in beginnings:
        width = values.shape[1]
        surprises = np.where(known, values - model.mean[:width], 0.0) @ inverse[:width, :width].T
        surprises *= known
        total[:width] += surprises.sum(axis=0)
        squares[:width, :width] += surprises.T @ surprises
        squares[range(width), range(width)] += (~known).sum(axis=0)
        squares[range(width, len(root)), range(width, len(root))] += len(values)
    mean = total / trials
    second = root @ (squares / trials - np.outer(mean, mean)) @ root.T
    between, within = _levels(second, model.looks)
    weight = PRIOR_TRIALS / (trials + PRIOR_TRIALS)
    return CurveModel(
        mean=model.mean + root @ mean,
        between=_damped(between, weight),
        within=_damped(within, weight),
        whole=model.whole,
    )


def _levels(second: Floats, looks: int) -> tuple[Floats, Floats]:
    """Covariances between trials and within them from that of whole curves, (K * L, K * L)."""
    folds = len(second) // looks
    blocks = second.reshape(folds, looks, folds, looks)
    same = np.einsum("kekf->ef", blocks) / folds
    if folds == 1:
        return same, np.zeros_like(same)
    across = (np.einsum("kelf->ef", blocks) - folds * same) / (folds * (folds - 1))
    return _nearest_covariance(across), _nearest_covariance(same - across)


def _nearest_covariance(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2.0)
    return np.asarray((vectors * np.maximum(values, LEAST_VARIANCE)) @ vectors.T)


def _damped(covariance: Floats, weight: float) -> Floats:
    """Pulled by `weight` towards correlations that fall off with the distance of two looks."""
    return covariance * (1.0 - weight + weight * _prior_correlations(len(covariance)))


@cache
def _prior_correlations(looks: int) -> Floats:
    place = np.arange(looks)
    return np.asarray(PRIOR_CORRELATION ** np.abs(np.subtract.outer(place, place)))
