"""The columns of Optuna's tables that we read by SQL. Never written here.

The schema is pinned by `schema.OPTUNA_HEAD`; reading ten thousand trials through Optuna takes
eighteen seconds, through these statements a fraction of one.
"""

from __future__ import annotations

import sqlalchemy as sa

studies = sa.table("studies", sa.column("study_id"), sa.column("study_name"))
trials = sa.table(
    "trials",
    sa.column("trial_id"),
    sa.column("number"),
    sa.column("study_id"),
    sa.column("state"),
    sa.column("datetime_start"),
    sa.column("datetime_complete"),
)
trial_values = sa.table("trial_values", sa.column("trial_id"), sa.column("value"))
trial_params = sa.table(
    "trial_params",
    sa.column("param_id"),
    sa.column("trial_id"),
    sa.column("param_name"),
    sa.column("param_value"),
    sa.column("distribution_json"),
)


def trials_of(name: str) -> sa.Select[tuple[object, ...]]:
    """All trials of a study, to be narrowed."""
    return (
        sa.select(trials)
        .join(studies, studies.c.study_id == trials.c.study_id)
        .where(studies.c.study_name == name)
    )


def trial_counts(connection: sa.Connection, name: str) -> dict[str, int]:
    """How many trials are in each of Optuna's states."""
    rows = connection.execute(
        sa.select(sa.cast(trials.c.state, sa.String), sa.func.count())
        .join(studies, studies.c.study_id == trials.c.study_id)
        .where(studies.c.study_name == name)
        .group_by(trials.c.state)
    )
    return {str(state): int(count) for state, count in rows}


def best_trial(connection: sa.Connection, name: str) -> int | None:
    """The number of the complete trial with the highest value, the earliest of equals."""
    return connection.execute(
        trials_of(name)
        .join(trial_values, trial_values.c.trial_id == trials.c.trial_id)
        .with_only_columns(trials.c.number)
        .where(trials.c.state == sa.literal_column("'COMPLETE'"))
        .order_by(trial_values.c.value.desc(), trials.c.number)
        .limit(1)
    ).scalar()
