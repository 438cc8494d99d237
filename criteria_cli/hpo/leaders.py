"""The best complete trials of a study, with their parameters and fold scores, by plain SQL."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from criteria_cli.hpo import optuna_tables as optuna
from criteria_cli.hpo.facts import BestTrial
from criteria_cli.hpo.tables import attempts, folds
from criteria_cli.study.spec import Scalar

LEADERS = 5


def leaders_of(connection: sa.Connection, name: str, at: float) -> tuple[BestTrial, ...]:
    """The best first. `at` is the store's time, from which ages count.

    Raises:
        ValueError, TypeError: a complete trial's value is no number, which Optuna would not accept.
    """
    top = connection.execute(
        sa.select(optuna.trials.c.trial_id, optuna.trials.c.number, optuna.trial_values.c.value)
        .select_from(optuna.trials)
        .join(optuna.studies, optuna.studies.c.study_id == optuna.trials.c.study_id)
        .join(optuna.trial_values, optuna.trial_values.c.trial_id == optuna.trials.c.trial_id)
        .where(
            optuna.studies.c.study_name == name,
            optuna.trials.c.state == sa.literal_column("'COMPLETE'"),
        )
        .order_by(optuna.trial_values.c.value.desc(), optuna.trials.c.number)
        .limit(LEADERS)
    ).all()
    ids = [row.trial_id for row in top]
    numbers = [row.number for row in top]
    params = _params(connection, ids)
    scores: dict[int, list[float]] = {number: [] for number in numbers}
    for trial, score in connection.execute(
        sa.select(folds.c.trial, folds.c.score)
        .where(folds.c.study == name, folds.c.trial.in_(numbers))
        .order_by(folds.c.trial, folds.c.fold)
    ):
        scores[trial].append(float(score))
    ended = {
        row.trial: row
        for row in connection.execute(
            sa.select(attempts.c.trial, attempts.c.ended_at, attempts.c.worker_name).where(
                attempts.c.study == name,
                attempts.c.trial.in_(numbers),
                attempts.c.outcome == "complete",
            )
        )
    }
    return tuple(
        BestTrial(
            trial=row.number,
            value=_finite(row.value),
            params=params.get(row.trial_id, {}),
            fold_scores=tuple(scores[row.number]),
            age_s=at - ended[row.number].ended_at if row.number in ended else None,
            worker=ended[row.number].worker_name if row.number in ended else None,
        )
        for row in top
    )


def _finite(value: Any) -> float:
    """A stored value. PostgreSQL keeps NaN, and sorts it before all others."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(number)
    return number


def _params(connection: sa.Connection, trial_ids: list[int]) -> dict[int, dict[str, Scalar]]:
    """Parameters by trial, as they were sampled."""
    rows = connection.execute(
        sa.select(optuna.trial_params)
        .where(optuna.trial_params.c.trial_id.in_(trial_ids))
        .order_by(optuna.trial_params.c.param_id)
    )
    found: dict[int, dict[str, Scalar]] = {}
    for row in rows:
        found.setdefault(row.trial_id, {})[row.param_name] = _external(
            row.param_value, json.loads(row.distribution_json)
        )
    return found


def _external(value: float, distribution: Mapping[str, Any]) -> Scalar:
    """A stored parameter as people know it."""
    attributes = distribution["attributes"]
    match distribution["name"]:
        case "CategoricalDistribution":
            chosen: Scalar = attributes["choices"][int(value)]
            return chosen
        case "IntDistribution":
            return int(value)
        case _:
            return float(value)
