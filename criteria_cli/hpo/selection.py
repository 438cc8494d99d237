"""The trial that `criteria train` is asked for, and what the search would have chosen without each
fold.

The best trial's score is the mean over the folds that chose it, and so too high. For fold k, the
trial with the best mean over the other folds was chosen without fold k; its score there is honest
(nested cross-validation over a search that is already done: Cawley and Talbot, 2010, JMLR 11).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

import sqlalchemy as sa

from criteria_cli.errors import UsageError
from criteria_cli.hpo import status
from criteria_cli.hpo.engine import reading_engine
from criteria_cli.hpo.report_facts import StudyRecord, read_record
from criteria_cli.hpo.tables import studies
from criteria_cli.hpo.trouble import trusting
from criteria_cli.hpo.url import read_url
from criteria_cli.study.spec import Scalar, StudySpec

Params = Mapping[str, Scalar]


@dataclass(frozen=True)
class Selection:
    """A trial of a study."""

    spec: StudySpec
    """The definition that the study's first worker froze."""
    trial: int
    params: Params
    score: float | None
    without: tuple[Params, ...] | None
    """For each fold, the parameters of the best complete trial on the other folds; None for a
    trial picked by hand or a study with a single fold."""


def select(storage: str, name: str, which: int | Literal["best"]) -> Selection:
    """Read a trial.

    Raises:
        UsageError: no such study or trial, or none is complete.
        StoreError: the store cannot be read.
    """
    record = study_record(storage, name)
    spec = read_spec(record.definition, name)
    if which == "best":
        return _best(record, spec, name)
    for trial in record.study.trials:  # a confirmed one too
        if trial.number == which and trial.state.is_finished():
            return Selection(spec, which, trial.params, trial.value, None)
    raise UsageError(f"study `{name}` has no finished trial {which}", code="study.no_trial")


def frozen_spec(storage: str, name: str) -> StudySpec:
    """The definition that a study's first worker froze.

    Raises:
        UsageError: no study of this name, naming those that exist.
        StoreError: the store cannot be read.
    """
    status.read_study(storage, name)  # refuses an unknown name
    stored = status.reading(
        read_url(storage),
        lambda connection: connection.execute(
            sa.select(studies.c.definition).where(studies.c.name == name)
        ).scalar_one(),
    )
    return read_spec(json.loads(stored), name)


def read_spec(definition: Mapping[str, Any], name: str) -> StudySpec:
    """A stored definition.

    Raises:
        StoreError: this criteria cannot read it.
    """
    with trusting(name):  # pydantic's error is a ValueError
        return StudySpec.from_json(definition)


def study_record(storage: str, name: str) -> StudyRecord:
    """A study's definition, finished trials and folds.

    Raises:
        UsageError: no study of this name, naming those that exist.
        StoreError: the store cannot be read.
    """
    status.read_study(storage, name)  # refuses an unknown name
    engine = reading_engine(read_url(storage))
    try:
        return read_record(engine, name)
    finally:
        engine.dispose()


def _best(record: StudyRecord, spec: StudySpec, name: str) -> Selection:
    if not record.complete:
        raise UsageError(
            f"study `{name}` has no complete trial yet",
            hint="without `--from`, train takes the definition's own settings",
            code="study.no_trial",
        )
    best = record.complete[0]
    return Selection(spec, best.number, best.params, best.value, _without(record, spec))


def _without(record: StudyRecord, spec: StudySpec) -> tuple[Params, ...] | None:
    folds = spec.validation.fold_count
    scores = {(fold.trial, fold.fold): fold.score for fold in record.folds}
    whole = [
        trial
        for trial in record.complete
        if all((trial.number, fold) in scores for fold in range(1, folds + 1))
    ]
    if folds < 2 or not whole:
        return None
    chosen = []
    for left_out in range(1, folds + 1):
        others = [fold for fold in range(1, folds + 1) if fold != left_out]
        winner = max(
            whole,
            key=lambda trial: (mean(scores[trial.number, fold] for fold in others), -trial.number),
        )
        chosen.append(winner.params)
    return tuple(chosen)
