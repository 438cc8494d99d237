"""Finishing stopped trials at the end of a study: `criteria hpo --confirm K`.

Pruning is wrong now and then. When the budget is spent, the K stopped trials that are likeliest to
be better than the incumbent are run to their end. The next one is chosen when a worker is free,
from what the store holds then, under the study's lock.

A finished trial of Optuna never changes, so a stopped trial, the *source*, is confirmed by a new
one: the same parameters and training seed, the same folder of results, born with the source's folds
and epochs. It trains what is left and is never stopped. Once it is complete it takes the source's
place in the budget: one trial has changed from pruned to complete. Optuna, its dashboard and its
best trial see a complete trial like any other, with the user attribute `confirms`.
"""

from __future__ import annotations

import numpy as np
import optuna
import sqlalchemy as sa
from optuna.trial import TrialState

from criteria_cli.hpo.clock import now
from criteria_cli.hpo.confirmations import sources
from criteria_cli.hpo.optuna_store import OpenStudy
from criteria_cli.hpo.optuna_tables import trials, trials_of
from criteria_cli.hpo.racing import most_promising
from criteria_cli.hpo.reports import read_scores
from criteria_cli.hpo.scores import Scores
from criteria_cli.hpo.tables import confirmations, epochs, folds
from criteria_cli.study.pruning_rules import most_epochs
from criteria_cli.study.spec import StudySpec

ATTRIBUTE = "confirms"
"""The user attribute that names the source."""


def next_source(connection: sa.Connection, spec: StudySpec) -> int:
    """The most promising stopped trial that nobody confirms; there must be one."""
    listed = trials_of(spec.name).where(trials.c.number.not_in(sources(spec.name)))
    history = read_scores(connection, spec, listed, epoch_count=most_epochs(spec))
    found = most_promising(history, 1)
    return found[0].number if found else _longest(history)


def _longest(history: Scores) -> int:
    """Where nothing can be forecast: the stopped trial with the most folds, of equals the one with
    the highest mean."""
    rows = np.flatnonzero(history.stopped)
    done = np.isfinite(history.folds[rows])
    means = np.where(done, history.folds[rows], 0.0).sum(axis=1) / np.maximum(done.sum(axis=1), 1)
    best = np.lexsort((history.number[rows], -means, -done.sum(axis=1)))[0]
    return int(history.number[rows[best]])


def make_trial(
    connection: sa.Connection, opened: OpenStudy, study: optuna.Study, source: int
) -> optuna.trial.Trial:
    """A running trial that goes on where `source` was stopped, in the claim's transaction."""
    stopped = next(
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        if trial.number == source
    )
    made = opened.add(
        optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=stopped.params,
            distributions=stopped.distributions,
            user_attrs={ATTRIBUTE: source},
            intermediate_values=stopped.intermediate_values,
        )
    )
    name = study.study_name
    connection.execute(
        sa.insert(confirmations).values(study=name, source=source, trial=made.number, at=now())
    )
    for table in (folds, epochs):
        _copy(connection, table, name, source, made.number)
    return made


def _copy(connection: sa.Connection, table: sa.Table, study: str, source: int, trial: int) -> None:
    values = [
        sa.literal(trial).label("trial") if column.name == "trial" else column
        for column in table.columns
    ]
    rows = sa.select(*values).where(table.c.study == study, table.c.trial == source)
    connection.execute(sa.insert(table).from_select(list(table.columns.keys()), rows))
