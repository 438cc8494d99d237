"""Hyperband over folds or epochs: Optuna's pruner, what it is told, and where it will judge next.

Optuna draws a trial's bracket from its number and the study's name, and keeps the best
1/reduction_factor of the trials of a bracket that reached a rung, counting from `bootstrap_count`
entries. That count prunes the first arrivals instead of sparing them, so it is always 0 here; the
baseline is `startup_trials`, which are recorded at their rungs and never stopped.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Sequence

import optuna

from criteria_cli.study.pruning_rules import bracket_count, max_resource, rungs
from criteria_cli.study.spec import StudySpec

RUNG_KEY = "completed_rung_{}"
"""The trial attribute in which Optuna's `SuccessiveHalvingPruner` keeps the value at a rung."""


def hyperband_pruner(spec: StudySpec) -> optuna.pruners.HyperbandPruner:
    """Optuna's pruner for this definition, with no bootstrap."""
    return optuna.pruners.HyperbandPruner(
        min_resource=spec.pruner.min_resource,
        max_resource=max_resource(spec),
        reduction_factor=spec.pruner.reduction_factor,
        bootstrap_count=0,
    )


def bracket_of(spec: StudySpec, study_name: str, number: int) -> int:
    """The bracket that Optuna gives a trial."""
    count = bracket_count(spec.pruner, max_resource(spec))
    shares = [
        math.ceil(count * spec.pruner.reduction_factor**s / (s + 1))
        for s in range(count - 1, -1, -1)
    ]
    place = binascii.crc32(f"{study_name}_{number}".encode()) % sum(shares)
    for bracket, share in enumerate(shares):
        place -= share
        if place < 0:
            return bracket
    raise AssertionError("shares add up to their sum")


def rungs_of(spec: StudySpec, study_name: str, number: int) -> tuple[int, ...]:
    """The steps at which this trial is compared."""
    return rungs(spec, bracket_of(spec, study_name, number))


def promoted(value: float, others: Sequence[float], reduction_factor: int) -> bool:
    """Whether `value` stands in the top 1/reduction_factor of itself and `others`.

    The first arrivals, too few for a share of one, are promoted if they are the best so far.
    """
    return not math.isnan(value) and value >= least_promoted([*others, value], reduction_factor)


def least_promoted(values: Sequence[float], reduction_factor: int) -> float:
    """The lowest of the values at a rung that is promoted."""
    return sorted(values, reverse=True)[max(len(values) // reduction_factor - 1, 0)]


def hyperband_stops(
    study: optuna.Study, trial: optuna.trial.Trial, spec: StudySpec, step: int
) -> bool:
    """Whether Optuna's pruner stops the trial at the step it has just reported.

    A trial whose value at this rung is on record was asked before and lost its worker before the
    answer took effect: it is compared again from that record, since Optuna would pass it.
    """
    own = rungs_of(spec, study.study_name, trial.number)
    if not own or step < own[0]:
        return False
    if step in own:
        key = RUNG_KEY.format(own.index(step))
        on_record = _on_record(study, spec, key, bracket_of(spec, study.study_name, trial.number))
        if trial.number in on_record:
            value = on_record.pop(trial.number)
            return not promoted(value, list(on_record.values()), spec.pruner.reduction_factor)
    return trial.should_prune()


def needed(study: optuna.Study, spec: StudySpec, number: int, value: float, step: int) -> float:
    """What the trial would have needed at the rung where it was stopped, with this value at this
    step."""
    own = rungs_of(spec, study.study_name, number)
    key = RUNG_KEY.format(sum(rung <= step for rung in own) - 1)
    values = _on_record(study, spec, key, bracket_of(spec, study.study_name, number))
    return least_promoted(list({**values, number: value}.values()), spec.pruner.reduction_factor)


def _on_record(study: optuna.Study, spec: StudySpec, key: str, bracket: int) -> dict[int, float]:
    """Values of a bracket's trials at a rung, by trial number."""
    return {
        other.number: float(other.system_attrs[key])
        for other in study.get_trials(deepcopy=False)
        if key in other.system_attrs and bracket_of(spec, study.study_name, other.number) == bracket
    }
