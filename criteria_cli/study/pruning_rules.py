"""Where a pruner may stop a trial, and which pruner sections can never work.

A trial reports *steps*: its folds, counted from 1, or its epochs, counted from 1 through all of its
folds. Rungs are the steps at which Hyperband compares trials (Li et al., 2018, JMLR 18(185), in
the form of Optuna's `HyperbandPruner`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from criteria_cli.study.spec import PrunerSpec, StudySpec


def most_epochs(spec: StudySpec) -> int:
    """Epochs of a fold at most: the setting, or the largest that the search may sample."""
    for name in ("epochs", "training.epochs"):
        if name in spec.search:
            return max(int(value) for value in spec.search[name].extremes())
    return spec.training.epochs


def counts_epochs(spec: StudySpec) -> bool:
    """Whether steps are epochs: as the definition says, and always for racing on its own, whose
    sampler could not tell trials apart that were stopped within their first fold."""
    return spec.pruner.resource == "epoch" or spec.pruner.type == "racing"


def reported_steps(spec: StudySpec) -> int:
    """Steps a trial reports when nothing stops it."""
    folds = spec.validation.fold_count
    return folds * most_epochs(spec) if counts_epochs(spec) else folds


def max_resource(spec: StudySpec) -> int:
    """Hyperband's `max_resource`: as defined, or every step that a trial reports."""
    given = spec.pruner.max_resource
    return reported_steps(spec) if given is None else given


def bracket_count(pruner: PrunerSpec, most: int) -> int:
    """Hyperband's brackets, floor(log_factor(most / min_resource)) + 1 as Optuna has it."""
    return math.floor(math.log(most / pruner.min_resource, pruner.reduction_factor)) + 1


def rungs(spec: StudySpec, bracket: int) -> tuple[int, ...]:
    """Steps at which a trial of this bracket is compared, none at or after its last step."""
    step = spec.pruner.min_resource * spec.pruner.reduction_factor**bracket
    found = []
    while step < reported_steps(spec):
        found.append(step)
        step *= spec.pruner.reduction_factor
    return tuple(found)


def first_patience_fold(spec: StudySpec) -> int | None:
    """The earliest fold after which patience can stop a trial."""
    patience = spec.pruner.patience
    if patience is None:
        return None
    return patience.folds + (patience.against == "self")


def pruning_problem(spec: StudySpec) -> str | None:
    """Why this definition's pruner could never act as it says, or None."""
    return _resource_problem(spec) or _patience_problem(spec)


def _resource_problem(spec: StudySpec) -> str | None:
    pruner, steps = spec.pruner, reported_steps(spec)
    unit = pruner.resource
    if pruner.type in ("none", "racing"):
        return None
    reports = f"a trial reports {steps} {unit}{'' if steps == 1 else 's'}"
    if steps == 1:
        return (
            f'{reports}, so `pruner.resource = "{unit}"` leaves nothing to stop: use '
            '`pruner.resource = "epoch"` or `pruner.type = "none"`'
            if unit == "fold"
            else f'{reports}, so nothing can be stopped: use `pruner.type = "none"`'
        )
    if pruner.min_resource >= steps:
        return (
            f"`pruner.min_resource` is {pruner.min_resource} but {reports}, and nothing is pruned "
            f"after the last: use 1 to {steps - 1}"
        )
    if pruner.type != "median" and max_resource(spec) != steps:
        return (
            f"`pruner.max_resource` is {max_resource(spec)} but {reports}, so rungs and reports do "
            f"not meet: use {steps}"
        )
    return None


def _patience_problem(spec: StudySpec) -> str | None:
    first, folds = first_patience_fold(spec), spec.validation.fold_count
    if first is None or first < folds:
        return None
    assert spec.pruner.patience is not None
    return (
        f"`pruner.patience.folds` is {spec.pruner.patience.folds}, which can stop a trial after "
        f"fold {first} at the earliest, but a trial has {folds} and nothing is pruned after the "
        "last: use fewer, or leave patience out"
    )
