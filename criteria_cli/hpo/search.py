"""From a definition's search space and an Optuna trial to the parameters of a trial."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import optuna

from criteria_cli.study.spec import Parameter, Scalar, StudySpec, setting_key


def seed_of(spec: StudySpec, number: int, use: str) -> int:
    """A seed that depends on definition and trial number alone, in [0, 2**31).

    Args:
        use: what it is for, so that sampling and training do not share one.
    """
    text = f"{spec.sampler.seed}:{number}:{use}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def sampler_for(spec: StudySpec, number: int) -> optuna.samplers.BaseSampler:
    """The sampler that draws one trial.

    A new one for each trial, seeded by its number: what is drawn depends on the trials before it
    and not on which worker draws, nor on how often a worker was started.
    """
    seed = seed_of(spec, number, "sampler")
    if spec.sampler.type == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=spec.sampler.startup_trials,
        multivariate=True,
        constant_liar=True,  # trials under way count, so that workers do not draw alike
    )


def suggest(spec: StudySpec, trial: optuna.trial.Trial) -> dict[str, Scalar]:
    """Draw every searched setting whose condition holds, in the definition's order.

    For a trial that has its parameters already they are returned as they are.
    """
    params: dict[str, Scalar] = {}
    for name, parameter in spec.search.items():
        if _holds(spec, parameter, params):
            params[name] = _draw(trial, name, parameter)
    return params


def _holds(spec: StudySpec, parameter: Parameter, params: Mapping[str, Scalar]) -> bool:
    drawn = {setting_key(name): value for name, value in params.items()}
    for name, wanted in parameter.conditions.items():
        key = setting_key(name)
        value: Any = drawn[key] if key in drawn else _own(spec, key)
        if value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
            return False
    return True


def _own(spec: StudySpec, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(spec, section), name)


def _draw(trial: optuna.trial.Trial, name: str, parameter: Parameter) -> Scalar:
    if parameter.choices is not None:
        chosen = trial.suggest_categorical(name, parameter.choices)
        assert chosen is not None
        return chosen
    assert parameter.low is not None
    assert parameter.high is not None
    if parameter.integer:
        return trial.suggest_int(
            name,
            int(parameter.low),
            int(parameter.high),
            step=int(parameter.step or 1),
            log=parameter.log,
        )
    return trial.suggest_float(
        name,
        float(parameter.low),
        float(parameter.high),
        step=float(parameter.step) if parameter.step is not None else None,
        log=parameter.log,
    )
