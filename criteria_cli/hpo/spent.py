"""Where the time of a study's latest folds went, from what their trainers counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from criteria_cli.hpo.facts import Spent
from criteria_cli.hpo.tables import folds

LATEST = 50
"""Folds that are looked at: what a study costs now, not what it cost weeks ago."""
PHASES = ("start", "data", "forward", "backward", "optimizer", "evaluation", "store")
_TRAINING = ("data", "forward", "backward", "optimizer")


def spent_lately(connection: sa.Connection, study: str) -> Spent | None:
    """Costs of the latest finished folds together; None while there are none."""
    reports = connection.execute(
        sa.select(folds.c.report)
        .where(folds.c.study == study)
        .order_by(folds.c.at.desc())
        .limit(LATEST)
    ).scalars()
    costs = [found for text in reports if (found := json.loads(text).get("costs"))]
    return _together(costs) if costs else None


def _together(costs: list[Mapping[str, Any]]) -> Spent:
    seconds = {phase: sum(fold.get(f"{phase}_s", 0.0) for fold in costs) for phase in PHASES}
    training = [sum(fold.get(f"{phase}_s", 0.0) for phase in _TRAINING) for fold in costs]
    total = sum(training)

    def mean(rate: str) -> float | None:
        """Of a rate per second of training, over that time."""
        if not total:
            return None
        weighted = sum(
            fold.get(rate, 0.0) * time for fold, time in zip(costs, training, strict=True)
        )
        return float(weighted / total)

    return Spent(
        folds=len(costs),
        seconds=seconds,
        examples_per_s=mean("examples_per_s"),
        tokens_per_s=mean("tokens_per_s"),
        padding=mean("padding"),
    )
