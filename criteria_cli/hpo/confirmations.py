"""Which trials confirm which, and what that does to the budget. Optuna is not imported.

A *source* is a stopped trial that another one finishes; see `confirm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from criteria_cli.hpo import optuna_tables as optuna
from criteria_cli.hpo.tables import confirmations


@dataclass(frozen=True)
class Tally:
    """Trials of a study in each of Optuna's states."""

    states: Mapping[str, int]
    """All trials."""
    confirming: Mapping[str, int]
    """Those of them that confirm another."""

    @property
    def complete(self) -> int:
        return self.states.get("COMPLETE", 0)

    @property
    def pruned(self) -> int:
        """Stopped, and not complete by another trial either."""
        return self.states.get("PRUNED", 0) - self.confirming.get("COMPLETE", 0)

    @property
    def finished(self) -> int:
        """What counts against the budget: a confirmed trial changes from pruned to complete."""
        return self.complete + self.pruned

    @property
    def running(self) -> int:
        """Trials of the budget that have begun and are not over."""
        return self.states.get("RUNNING", 0) - self.confirming.get("RUNNING", 0)

    @property
    def begun(self) -> int:
        """Confirmations, whatever became of them."""
        return sum(self.confirming.values())

    @property
    def confirming_now(self) -> int:
        """Confirmations that are not over."""
        return self.confirming.get("RUNNING", 0)

    def to_confirm(self, wanted: int) -> int:
        """Confirmations still to begin of so many wanted, while there are stopped trials."""
        return max(0, min(wanted, self.states.get("PRUNED", 0)) - self.begun)


def tally(connection: sa.Connection, study: str) -> Tally:
    """Count the trials of a study."""
    other = confirmations.c.trial.is_not(None)
    rows = connection.execute(
        sa.select(sa.cast(optuna.trials.c.state, sa.String), other, sa.func.count())
        .join(optuna.studies, optuna.studies.c.study_id == optuna.trials.c.study_id)
        .outerjoin(
            confirmations,
            sa.and_(
                confirmations.c.study == study, confirmations.c.trial == optuna.trials.c.number
            ),
        )
        .where(optuna.studies.c.study_name == study)
        .group_by(optuna.trials.c.state, other)
    )
    states: dict[str, int] = {}
    confirming: dict[str, int] = {}
    for state, confirms, count in rows:
        states[str(state)] = states.get(str(state), 0) + int(count)
        if confirms:
            confirming[str(state)] = int(count)
    return Tally(states, confirming)


def sources(study: str) -> sa.Select[Any]:
    """Numbers of the trials that another one finishes or finished."""
    return sa.select(confirmations.c.source).where(confirmations.c.study == study)


def replaced(study: str) -> sa.Select[Any]:
    """Numbers of the sources whose confirmation is complete."""
    complete = (
        optuna.trials_of(study)
        .with_only_columns(optuna.trials.c.number)
        .where(optuna.trials.c.state == sa.literal_column("'COMPLETE'"))
    )
    return sources(study).where(confirmations.c.trial.in_(complete))


def source_of(connection: sa.Connection, study: str, trial: int) -> int | None:
    """The trial that `trial` finishes, if it does."""
    found = connection.execute(sources(study).where(confirmations.c.trial == trial)).scalar()
    return None if found is None else int(found)
