"""How sure a metric is: the bootstrap over groups.

Pairs of one author, document or text are not independent, so whole blocks of posts are drawn with
replacement, never pairs (the cluster bootstrap; Davison and Hinkley, 1997).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.integer]
Flags = NDArray[np.bool_]
Interval = tuple[float, float]

REPLICATES = 1000
LEVEL = 0.95
_CHUNK = 100


@dataclass(frozen=True)
class Intervals:
    """The 95 % percentile interval of each metric."""

    pooled: Mapping[str, Interval]
    per_criterion: Mapping[str, Mapping[str, Interval]]


def bootstrap(
    scores: NDArray[np.floating],
    labels: Integers,
    called: Flags,
    criterion: Integers,
    criteria: Sequence[str],
    blocks: Integers,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Intervals:
    """Intervals of the metrics of pairs that no threshold or model was fitted on.

    Args:
        scores: (pairs,) what ranks them.
        called: (pairs,) which are called positive.
        blocks: (pairs,) what is drawn as a whole.
        replicates: samples drawn; one where a metric is not defined is left out of its interval.
    """
    positive = np.asarray(labels) == 1
    parts = {"": np.arange(len(scores))}
    parts |= {name: np.flatnonzero(criterion == at) for at, name in enumerate(criteria)}
    ranked = {
        name: _Ranked.of(scores[rows], positive[rows], called[rows], blocks[rows])
        for name, rows in parts.items()
        if rows.size
    }
    random = np.random.default_rng(seed)
    found, block = np.unique(blocks, return_inverse=True)
    del block
    drawn: dict[str, list[dict[str, Floats]]] = {name: [] for name in ranked}
    for start in range(0, replicates, _CHUNK):
        size = min(_CHUNK, replicates - start)
        times = random.multinomial(len(found), [1 / len(found)] * len(found), size=size)
        for name, part in ranked.items():
            drawn[name].append(part.metrics(times[:, np.searchsorted(found, part.blocks)]))
    values = {
        name: {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}
        for name, parts in drawn.items()
    }
    pooled = values.pop("")
    macro = np.stack([part["f1"] for name, part in values.items()])
    with np.errstate(invalid="ignore"):
        counted = (~np.isnan(macro)).sum(axis=0)
        pooled["macro_f1"] = np.where(counted, np.nansum(macro, axis=0) / np.maximum(counted, 1), 0)
    return Intervals(
        {metric: _percentiles(drawn) for metric, drawn in pooled.items()},
        {
            name: {metric: _percentiles(drawn) for metric, drawn in part.items()}
            for name, part in values.items()
        },
    )


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Some pairs from the lowest score to the highest."""

    positive: Floats
    called: Floats
    blocks: Integers
    starts: Integers
    """Where each distinct score begins."""

    @classmethod
    def of(
        cls, scores: NDArray[np.floating], positive: Flags, called: Flags, blocks: Integers
    ) -> _Ranked:
        order = np.argsort(scores, kind="stable")
        ranked = scores[order]
        starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
        return cls(
            positive[order].astype(np.float64),
            called[order].astype(np.float64),
            blocks[order],
            starts,
        )

    def metrics(self, times: Integers) -> dict[str, Floats]:
        """Metrics (replicates,), each pair counted `times` (replicates, pairs); NaN: undefined."""
        weight = times.astype(np.float64)
        hits = weight @ (self.positive * self.called)
        called, positives = weight @ self.called, weight @ self.positive
        at = np.add.reduceat(weight * self.positive, self.starts, axis=1)
        all_at = np.add.reduceat(weight, self.starts, axis=1)
        negatives_at = all_at - at
        negatives = negatives_at.sum(axis=1)
        below = np.cumsum(negatives_at, axis=1) - negatives_at / 2
        above = np.cumsum(at[:, ::-1], axis=1)[:, ::-1]
        all_above = np.cumsum(all_at[:, ::-1], axis=1)[:, ::-1]
        precision_at = above / np.maximum(all_above, 1)
        none = np.where(positives > 0, 1.0, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "precision": np.where(called > 0, hits / called, 0.0) * none,
                "recall": hits / positives,
                "f1": 2 * hits / (called + positives) * none,
                "auroc": (at * below).sum(axis=1) / (positives * negatives),
                "average_precision": (at * precision_at).sum(axis=1) / positives,
            }


def _percentiles(values: Floats) -> Interval:
    defined = values[~np.isnan(values)]
    if not defined.size:
        return (0.0, 1.0)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return (float(low), float(high))
