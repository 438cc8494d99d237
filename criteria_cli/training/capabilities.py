"""What a definition asks for in vain: settings that cannot act on its model, and libraries that
this machine lacks. Refused by name before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from criteria_cli.data.wordnet import find_wordnet
from criteria_cli.errors import UsageError
from criteria_cli.study.spec import Scalar, StudySpec, setting_key
from criteria_cli.training.adapters import require_peft
from criteria_cli.training.model import ScoringModel
from criteria_cli.training.optimizer import layer_count

_NO_LAYERS = "its layers cannot be told apart"


def _no_place(setting: str) -> Callable[[ScoringModel], str]:
    return lambda model: "" if model.dropout.has(setting) else "it has no such dropout"


def _layers(model: ScoringModel) -> str:
    return "" if layer_count(model.module) else _NO_LAYERS


_CHECKS: dict[str, Callable[[ScoringModel], str]] = {
    "model.hidden_dropout": _no_place("hidden_dropout"),
    "model.attention_dropout": _no_place("attention_dropout"),
    "model.classifier_dropout": _no_place("classifier_dropout"),
    "training.layerwise_lr_decay": _layers,
    "training.frozen_layers": _layers,
}


def unusable_settings(model: ScoringModel, keys: Iterable[str]) -> dict[str, str]:
    """Those of `keys`, such as `training.frozen_layers`, that do nothing on this model, with the
    reason."""
    reasons = {key: _CHECKS[key](model) for key in keys if key in _CHECKS}
    return {key: reason for key, reason in reasons.items() if reason}


def refuse_unusable(model: ScoringModel, spec: StudySpec) -> None:
    """Refuse a definition that sets or searches what cannot act on its model or this machine.

    Raises:
        UsageError: naming the setting.
        MachineError: a library or its data, which some trials would need, is missing.
    """
    _require_libraries(spec)
    named = {setting_key(name): f"search.{name}" for name in spec.search}
    if spec.training.layerwise_lr_decay != 1.0:
        named.setdefault("training.layerwise_lr_decay", "training.layerwise_lr_decay")
    for key, reason in unusable_settings(model, named).items():
        raise UsageError(
            f"`{named[key]}` does nothing on model `{spec.model.name}` "
            f"(`{model.module.config.model_type}`): {reason}",
            hint="take it out of the definition",
            code="model.idle_setting",
        )
    _refuse_too_many_frozen(model, spec)


def _require_libraries(spec: StudySpec) -> None:
    """So that no worker stops in the middle of a study, at the first trial that needs one."""
    if _may_be(spec, "model.lora", True):
        require_peft()
    if _may_be(spec, "augmentation.enable", True) and _may_be(
        spec, "augmentation.method", "synonym"
    ):
        find_wordnet()


def _may_be(spec: StudySpec, key: str, value: Scalar) -> bool:
    """Whether a setting has this value in some trial."""
    for name, parameter in spec.search.items():
        if setting_key(name) == key:
            return value in parameter.extremes()
    section, _, field = key.partition(".")
    return bool(getattr(getattr(spec, section), field) == value)


def _refuse_too_many_frozen(model: ScoringModel, spec: StudySpec) -> None:
    layers = layer_count(model.module)
    for name, parameter in spec.search.items():
        if setting_key(name) == "training.frozen_layers":
            most = max(int(value) for value in parameter.extremes())
            if most > layers:
                raise UsageError(
                    f"`search.{name}` goes to {most}, but model `{spec.model.name}` has {layers} "
                    "layers",
                    code="training.frozen_layers",
                )
