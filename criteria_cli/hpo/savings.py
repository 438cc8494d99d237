"""What pruning did to a study so far: folds and epochs run, trials stopped where, and confirmed."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from criteria_cli.hpo.confirmations import Tally, replaced
from criteria_cli.hpo.facts import ConfirmStatus, PruningStatus, RungCount
from criteria_cli.hpo.optuna_tables import trials, trials_of
from criteria_cli.hpo.tables import decisions, folds


def pruning_of(
    connection: sa.Connection, study: str, counts: Tally, *, fold_count: int, confirm: int
) -> PruningStatus:
    """Read it.

    Args:
        confirm: how many stopped trials the study is to confirm.
    """
    finished = _finished(study)
    folds_run, in_folds = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(folds.c.epochs), 0)).where(
            folds.c.study == study, folds.c.trial.in_(finished)
        )
    ).one()
    rungs = tuple(RungCount(*row) for row in connection.execute(_rungs(study, finished)))
    epochs_run = int(in_folds) + sum(rung.pruned * (rung.epoch or 0) for rung in rungs)
    folds_full = counts.finished * fold_count
    # What a fold that did not end would have cost is not known: the mean of those that did.
    epochs_full = round(folds_full * int(in_folds) / folds_run) if folds_run else None
    by_reason: dict[str, int] = {}
    for rung in rungs:
        by_reason[rung.reason] = by_reason.get(rung.reason, 0) + rung.pruned
    return PruningStatus(
        folds_run=folds_run,
        folds_full=folds_full,
        epochs_run=epochs_run,
        epochs_full=epochs_full,
        saved_fraction=1 - epochs_run / epochs_full if epochs_full else None,
        by_reason=by_reason,
        by_rung=rungs,
        confirm=ConfirmStatus(
            wanted=confirm,
            complete=counts.confirming.get("COMPLETE", 0),
            failed=counts.confirming.get("FAIL", 0),
            running=counts.confirming_now,
        ),
    )


def _finished(study: str) -> sa.Select[Any]:
    """Numbers of the trials that the budget counts."""
    over: list[Any] = [sa.literal_column("'COMPLETE'"), sa.literal_column("'PRUNED'")]
    return (
        trials_of(study)
        .with_only_columns(trials.c.number)
        .where(trials.c.state.in_(over), trials.c.number.not_in(replaced(study)))
    )


def _rungs(study: str, finished: sa.Select[Any]) -> sa.Select[Any]:
    columns = (decisions.c.reason, decisions.c.fold, decisions.c.epoch)
    return (
        sa.select(*columns, sa.func.count())
        .where(decisions.c.study == study, decisions.c.trial.in_(finished))
        .group_by(*columns)
        .order_by(decisions.c.fold, decisions.c.epoch, decisions.c.reason)
    )
