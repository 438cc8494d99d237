"""Tables of scores for `benchmarks/pruning.py`: simulated studies, and the recorded one.

A simulated score of configuration c in fold k after epoch e is

    base + (level[c, k] - base) * (1 - exp(-speed[c] * e))
         - overfit[c] * max(e - peak[c], 0) + epoch noise[c, k, e]
    level[c, k] = quality[c] + fold[k] + fold noise[c, k]

cut to [0, 1]: a rise from the score of a model that has learnt nothing, a plateau, a decline after
the peak, all in units of F1. Nothing of this form is built into racing, which knows only means and
covariances.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TRUTH_DRAWS = 40
RECORDED = Path(__file__).resolve().parent / "data" / "learning_curves.csv.gz"


@dataclass(frozen=True)
class World:
    """The parameters of a simulated study; all spreads are standard deviations of F1."""

    folds: int = 5
    epochs: int = 12
    quality: float = 0.04
    """Between configurations."""
    fold_noise: float = 0.03
    """Of one configuration between folds, once the folds' difficulty is taken out."""
    fold_effect: float = 0.03
    """Of the folds' difficulty."""
    epoch_noise: float = 0.015
    """Of single epochs."""
    middle: float = 0.57
    """The median configuration's plateau."""
    base: float = 0.17
    """The score of a model that has learnt nothing: every pair called positive."""
    speed: float = 0.9
    """The median rate of rise per epoch; 0.9 reaches 93 % of the plateau by epoch 3."""
    speed_spread: float = 0.5
    """Of the log of the rate."""
    speed_quality: float = 0.0
    """Correlation of the log of the rate with quality; negative: the better, the later."""
    overfit: float = 0.004
    """The mean loss per epoch after the peak."""
    failing: float = 0.0
    """The share of configurations that hardly learn."""
    drift: float = 0.0
    """How much the arriving configurations improve over the study, in sds of quality, as under a
    sampler that learns."""


WORLDS = {
    "even folds": World(),
    "uneven folds": World(fold_noise=0.04, fold_effect=0.08, epoch_noise=0.02),
    "late bloomers": World(speed_spread=0.8, speed_quality=-0.4, failing=0.15),
    "learning sampler": World(fold_effect=0.06, drift=2.0),
}


def simulate(world: World, trials: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Scores (trials, folds, epochs) and the true mean (trials,) of each configuration.

    The true mean is the expected objective on the study's folds: the mean over folds of the best
    epoch, over all noise.
    """
    z = rng.standard_normal(trials)
    quality = world.middle + world.quality * (z + world.drift * np.arange(trials) / trials)
    other = rng.standard_normal(trials)
    mix = world.speed_quality * z + np.sqrt(1 - world.speed_quality**2) * other
    speed = world.speed * np.exp(world.speed_spread * mix)
    fails = rng.random(trials) < world.failing
    share = 0.5 * rng.random(trials)
    quality = np.where(fails, world.base + (quality - world.base) * share, quality)
    fold = world.fold_effect * rng.standard_normal(world.folds)
    overfit = world.overfit * rng.exponential(size=trials)
    epoch = np.arange(1, world.epochs + 1)
    rise = (1 - np.exp(-speed[:, None] * epoch))[:, None, :]
    past_peak = np.maximum(epoch - np.minimum(3 / speed, world.epochs)[:, None], 0)
    fall = (overfit[:, None] * past_peak)[:, None, :]

    def draw(fold_noise: float) -> Floats:
        level = quality[:, None] + fold
        level = level + fold_noise * rng.standard_normal(level.shape)
        noise = world.epoch_noise * rng.standard_normal((trials, world.folds, world.epochs))
        scores = world.base + (level[:, :, None] - world.base) * rise - fall + noise
        return np.asarray(np.clip(scores, 0.0, 1.0))

    scores = draw(world.fold_noise)
    # Fold noise moves a whole curve nearly by itself, so its average is left out of the truth.
    true = np.mean([draw(0.0).max(axis=2).mean(axis=1) for _ in range(TRUTH_DRAWS)], axis=0)
    return scores, true


def recorded(path: Path = RECORDED) -> tuple[Floats, Floats]:
    """Scores (configurations, folds, epochs) of really trained folds, and true means."""
    return _runs(path)[0], recorded_truth(path).each


@dataclass(frozen=True)
class Truth:
    """What repeats say of the configurations' true means."""

    each: Floats
    """(configurations,)"""
    noise: float
    """The standard deviation of one run's mean over folds."""
    spread: float
    """Of true means among the best configurations, those that were repeated."""


def true_means(means: Floats) -> Truth:
    """True means from means (runs, configurations), the first run of all, others of the best alone.

    The first run put them in front, so their repeats, with other folds and seeds, estimate them,
    each drawn to the mean of all by its share of noise (empirical Bayes; Efron and Morris, 1973,
    JASA 68): the highest of many noisy estimates would be too high. What the first run promised too
    much on average is taken off the others.
    """
    first, repeats = means[0], means[1:]
    runs = np.isfinite(repeats).sum(axis=0)
    again, twice = runs > 0, runs > 1
    noise = repeats[:, twice].var(axis=0, ddof=1).mean()
    found = np.nanmean(repeats[:, again], axis=0)
    spread = max(float(found.var(ddof=1) - np.mean(noise / runs[again])), 0.0)
    centre, share = found.mean(), spread / (spread + noise / runs[again])
    each = first - (first[again].mean() - centre)
    each[again] = centre + share * (found - centre)
    return Truth(each, float(noise**0.5), spread**0.5)


def _runs(path: Path) -> Floats:
    """(runs, configurations, folds, epochs), NaN where a configuration was not repeated."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = np.array([[float(cell) for cell in row] for row in list(csv.reader(file))[1:]])
    run, configuration, fold = rows[:, :3].astype(int).T
    scores = np.full(
        (run.max() + 1, configuration.max() + 1, fold.max(), rows.shape[1] - 3), np.nan
    )
    scores[run, configuration, fold - 1] = rows[:, 3:]
    return scores


def recorded_truth(path: Path = RECORDED) -> Truth:
    """The truth of the recorded study."""
    return true_means(_runs(path).max(axis=3).mean(axis=2))
