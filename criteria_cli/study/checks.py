"""Whether a definition's search fits its sections: every searched setting exists, accepts what may
be sampled and does something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import ValidationError

from criteria_cli.errors import UsageError
from criteria_cli.study.explain import did_you_mean, explain, field_of, kind_of, known_keys, shown
from criteria_cli.study.spec import (
    LOCAL_KEYS,
    SEARCHABLE,
    Parameter,
    Scalar,
    StudySpec,
    setting_key,
)

Where = Callable[[str], str]
"""Names the file or flag that a key came from."""

ACTS_ONLY_WITH: dict[str, tuple[str, Scalar]] = {
    "training.focal_gamma": ("training.loss", "focal"),
    "training.class_balanced_beta": ("training.loss", "class_balanced"),
    "training.scheduler_cycles": ("training.scheduler", "cosine_with_restarts"),
    "model.window_overlap": ("model.long_posts", "windows"),
    "model.max_windows": ("model.long_posts", "windows"),
    "model.window_pooling": ("model.long_posts", "windows"),
    "model.lora_rank": ("model.lora", True),
    "model.lora_alpha": ("model.lora", True),
    "model.lora_dropout": ("model.lora", True),
    "model.lora_targets": ("model.lora", True),
    "augmentation.method": ("augmentation.enable", True),
    "augmentation.probability": ("augmentation.enable", True),
    "augmentation.words": ("augmentation.enable", True),
    "augmentation.variants": ("augmentation.enable", True),
    "augmentation.language_model": ("augmentation.method", "contextual"),
}
"""Settings that do nothing unless another has a certain value."""


def check_search(spec: StudySpec, where: Where) -> None:
    """Every searched setting exists, accepts its values, and acts.

    Raises:
        UsageError: naming the parameter.
    """
    asked: dict[str, Parameter] = {}
    for name, parameter in spec.search.items():
        place = f"{where(f'search.{name}')}: `search.{name}`"
        key = setting_key(name)
        _check_key(name, key, where)
        if key in asked:
            raise UsageError(f"{place}: `{key}` is searched twice", code="search.twice")
        _check_values(spec, name, key, parameter, place)
        _check_conditions(spec, parameter, asked, place)
        _check_acts(spec, key, parameter, asked, place)
        asked[key] = parameter


def _check_key(name: str, key: str, where: Where) -> None:
    if key in LOCAL_KEYS:
        raise UsageError(
            f"{where(f'search.{name}')}: `search.{name}` cannot be searched: each worker may set "
            f"`{key}` as it likes, and it changes no result",
            code="search.local",
        )
    possible = [
        item
        for item in known_keys()
        if item.partition(".")[0] in SEARCHABLE and item not in LOCAL_KEYS
    ]
    if key in possible:
        return
    written = [item.removeprefix("training.") for item in possible]
    raise UsageError(
        f"{where(f'search.{name}')}: `search.{name}` is no setting of `training`, `model` or "
        f"`augmentation`{did_you_mean(name, written)}",
        code="search.unknown",
    )


def _check_values(spec: StudySpec, name: str, key: str, parameter: Parameter, place: str) -> None:
    info = field_of(key)
    if info is not None and info.annotation is int and parameter.choices is None:
        for bound in ("low", "high", "step"):
            value = getattr(parameter, bound)
            if isinstance(value, float):
                raise UsageError(
                    f"{place}: `{bound}` must be a whole number, not {shown(value)}",
                    code="search.value",
                )
    if info is not None and parameter.choices is None and "number" not in kind_of(info):
        raise UsageError(
            f"{place}: a setting that takes {kind_of(info)} needs `choices`, not a range",
            code="search.value",
        )
    section, _, field = key.partition(".")
    seen: dict[object, Scalar] = {}
    for value in parameter.extremes():
        try:
            hyperparameters = spec.hyperparameters({name: value})
        except ValidationError as error:
            _, sentence = explain(error, f"{section}.")
            word = "choice" if parameter.choices is not None else "bound"
            raise UsageError(
                f"{place}: {word} {shown(value)}: {sentence}", code="search.value"
            ) from None
        taken = getattr(getattr(hyperparameters, section), field)
        if parameter.choices is not None and taken in seen and not isinstance(taken, bool):
            raise UsageError(
                f"{place}: choices {shown(seen[taken])} and {shown(value)} are the same",
                code="search.value",
            )
        seen[taken] = value


def _check_conditions(
    spec: StudySpec, parameter: Parameter, asked: Mapping[str, Parameter], place: str
) -> None:
    for name, value in parameter.conditions.items():
        key = setting_key(name)
        if key not in asked and key in {setting_key(other) for other in spec.search}:
            raise UsageError(
                f"{place}: `when` names `{name}`, which is sampled later: put it first",
                code="search.when",
            )
        if field_of(key) is None or key.partition(".")[0] not in SEARCHABLE:
            known = [item for item in known_keys() if item.partition(".")[0] in SEARCHABLE]
            raise UsageError(
                f"{place}: `when` names `{name}`, which is no setting{did_you_mean(name, known)}",
                code="search.when",
            )
        if not _possible(spec, key, value, asked):
            raise UsageError(
                f"{place} is never sampled: `{key}` is never {shown(value)}", code="search.when"
            )


def _check_acts(
    spec: StudySpec, key: str, parameter: Parameter, asked: Mapping[str, Parameter], place: str
) -> None:
    if key not in ACTS_ONLY_WITH:
        return
    needed, value = ACTS_ONLY_WITH[key]
    if needed not in asked and setting_key(needed) in {setting_key(n) for n in spec.search}:
        raise UsageError(
            f"{place} acts only with `{needed}` at {shown(value)}, which is sampled later: "
            "put it first",
            code="search.idle",
        )
    if not _possible(spec, needed, value, asked):
        raise UsageError(
            f"{place} does nothing: it acts only with `{needed}` at {shown(value)}",
            hint=f"search `{needed}` as well, set it, or take the parameter out",
            code="search.idle",
        )
    wanted = {setting_key(name): item for name, item in parameter.conditions.items()}
    if needed in asked and wanted.get(needed) != value:
        raise UsageError(
            f"{place} does nothing in some trials: it acts only with `{needed}` at {shown(value)}",
            hint=f"add {_when(needed, value)}",
            code="search.idle",
        )


def _when(key: str, value: Scalar) -> str:
    if value is True:
        return f'when = "{key}"'
    return f'when = {{ "{key}" = "{value}" }}'


def _possible(spec: StudySpec, key: str, value: Scalar, asked: Mapping[str, Parameter]) -> bool:
    parameter = asked.get(key)
    if parameter is None:
        section, _, field = key.partition(".")
        return bool(getattr(getattr(spec, section), field) == value)
    if parameter.choices is not None:
        return value in parameter.choices
    low, high = parameter.extremes()
    return (
        isinstance(value, int | float)
        and isinstance(low, int | float)
        and isinstance(high, int | float)
        and low <= value <= high
    )
