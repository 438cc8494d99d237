"""How good a configuration is: estimates from held-out scores, by how honest they are.

*Nested*: every pair is judged by a model, a temperature and a threshold that were chosen without it
(and, in a study, by settings that the search would have chosen without its fold). *Optimistic*:
the same scores, with thresholds chosen on the very pairs that are judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criteria_cli.data.corpus import Corpus
from criteria_cli.training.augmentation import COUNTS
from criteria_cli.training.calibration import Calibration, fit_calibration, log_odds
from criteria_cli.training.heldout import HeldOut
from criteria_cli.training.intervals import bootstrap
from criteria_cli.training.metrics import COLLAPSED, Metrics, measure

NESTED = (
    "each pair was judged by a model, temperature and thresholds chosen without it: epoch, "
    "temperature and thresholds on inner pairs of the fold's training part"
)
NESTED_TRIALS = ", and the settings by the search's scores on the other folds."
NESTED_FIXED = ". The settings were fixed before."
NESTED_CHOSEN = (
    ". The settings themselves were chosen by a search that saw these folds, so this is still "
    "somewhat too high."
)
OPTIMISTIC = "the same scores, with thresholds fitted on the very pairs that are judged."
SEARCH = (
    "for which its folds chose epoch and settings and were then reported: too high as an estimate."
)


@dataclass(frozen=True, eq=False)
class _Pooled:
    """The validation pairs of all folds, one after another."""

    labels: NDArray[np.int8]
    criterion: NDArray[np.int32]
    block: NDArray[np.int32]
    raw: NDArray[np.float32]
    """Log-odds as the folds' models gave them."""
    odds: NDArray[np.float64]
    """Calibrated, each fold by its own calibration: comparable across folds."""
    limits: NDArray[np.float64]
    """Thresholds in calibrated log-odds."""
    uncertain: NDArray[np.bool_]


def estimates(
    corpus: Corpus,
    folds: Sequence[HeldOut],
    *,
    nested_means: str,
    search_score: float | None = None,
) -> dict[str, Any]:
    """Everything that is said about how good the configuration is, as JSON values.

    Args:
        nested_means: what the nested estimate covers, a sentence.
        search_score: what the search had reported.
    """
    pooled = _pool(corpus, folds)
    criteria = [criterion.id for criterion in corpus.criteria]
    nested = _measure(pooled, criteria)
    ranges = bootstrap(
        pooled.odds,
        pooled.labels,
        pooled.odds > pooled.limits,
        pooled.criterion,
        criteria,
        pooled.block,
    )
    return {
        "nested": dict(nested.pooled),
        "nested_means": nested_means,
        "intervals": {name: list(bounds) for name, bounds in ranges.pooled.items()},
        "per_criterion": {
            name: {
                **values,
                "intervals": {
                    metric: list(bounds) for metric, bounds in ranges.per_criterion[name].items()
                },
            }
            for name, values in nested.per_criterion.items()
        },
        "folds": [_of_fold(corpus, fold) for fold in folds],
        "at_one_half": dict(measure(pooled.raw, pooled.labels, pooled.criterion, criteria).pooled),
        "optimistic": dict(_optimistic(pooled, criteria).pooled),
        "optimistic_means": OPTIMISTIC,
        "search": search_score,
        "search_means": SEARCH,
        "abstaining": _abstaining(pooled, criteria),
        "evidence": _evidence(folds),
        "collapsed_folds": [fold.fold for fold in folds if collapsed(fold)],
    }


def final_calibration(corpus: Corpus, folds: Sequence[HeldOut]) -> Calibration:
    """The calibration of the model on all data: fitted on the held-out scores of all folds."""
    pooled = _pool(corpus, folds)
    criteria = [criterion.id for criterion in corpus.criteria]
    return fit_calibration(pooled.raw, pooled.labels, pooled.criterion, criteria)


def collapsed(fold: HeldOut) -> bool:
    """Whether the fold's model says the same of every pair."""
    return len(fold.scores) > 1 and float(np.ptp(fold.scores)) < COLLAPSED


def fold_metrics(corpus: Corpus, fold: HeldOut) -> Metrics:
    """The nested metrics of one fold."""
    return _measure(_pool(corpus, [fold]), [criterion.id for criterion in corpus.criteria])


def _pool(corpus: Corpus, folds: Sequence[HeldOut]) -> _Pooled:
    criteria = [criterion.id for criterion in corpus.criteria]
    pairs = np.concatenate([fold.pairs for fold in folds])
    odds, limits, uncertain = [], [], []
    for fold in folds:
        calibration = fold.calibration
        probabilities = calibration.probabilities(fold.scores)
        at = calibration.limits(corpus.criterion[fold.pairs], criteria)
        odds.append(log_odds(probabilities))
        limits.append(log_odds(at))
        uncertain.append(calibration.uncertain(probabilities, at))
    return _Pooled(
        labels=corpus.label[pairs],
        criterion=corpus.criterion[pairs],
        block=corpus.blocks[corpus.post[pairs]],
        raw=np.concatenate([fold.scores for fold in folds]),
        odds=np.concatenate(odds),
        limits=np.concatenate(limits),
        uncertain=np.concatenate(uncertain),
    )


def _measure(pooled: _Pooled, criteria: Sequence[str]) -> Metrics:
    return measure(pooled.odds, pooled.labels, pooled.criterion, criteria, pooled.limits)


def _optimistic(pooled: _Pooled, criteria: Sequence[str]) -> Metrics:
    fitted = fit_calibration(pooled.odds, pooled.labels, pooled.criterion, criteria)
    odds = log_odds(fitted.probabilities(pooled.odds))
    limits = log_odds(fitted.limits(pooled.criterion, criteria))
    return measure(odds, pooled.labels, pooled.criterion, criteria, limits)


def _of_fold(corpus: Corpus, fold: HeldOut) -> dict[str, Any]:
    metrics = fold_metrics(corpus, fold)
    return {
        "fold": fold.fold,
        "best_epoch": fold.best_epoch,
        "epochs": fold.epochs,
        "inner_pairs": fold.inner_pairs,
        "metrics": dict(metrics.pooled),
        "per_criterion": {name: dict(values) for name, values in metrics.per_criterion.items()},
        "temperature": fold.calibration.temperature,
        "augmentation": {name: fold.costs[name] for name in COUNTS if name in fold.costs},
    }


def _abstaining(pooled: _Pooled, criteria: Sequence[str]) -> dict[str, float]:
    """What is gained by `--abstain`, with margins fitted on inner pairs."""
    kept = ~pooled.uncertain
    if not kept.any():
        return {"decided": 0.0, "f1": 0.0, "accuracy": 0.0}
    metrics = measure(
        pooled.odds[kept],
        pooled.labels[kept],
        pooled.criterion[kept],
        criteria,
        pooled.limits[kept],
    )
    return {
        "decided": float(kept.mean()),
        "f1": metrics.pooled["f1"],
        "accuracy": metrics.pooled["accuracy"],
    }


def _evidence(folds: Sequence[HeldOut]) -> Mapping[str, Any] | None:
    found = [fold.evidence for fold in folds if fold.evidence is not None]
    pairs = sum(each["pairs"] for each in found)
    if not pairs:
        return None
    return {
        "method": "leave one sentence out",
        "precision_at_1": sum(each["precision_at_1"] * each["pairs"] for each in found) / pairs,
        "chance": sum(each["chance"] * each["pairs"] for each in found) / pairs,
        "pairs": pairs,
    }
