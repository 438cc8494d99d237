"""Which settings cannot act on a model: refused by name before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from criteria_cli.errors import UsageError
from criteria_cli.study.spec import StudySpec, setting_key
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
    """Refuse a definition that sets or searches what cannot act on its model.

    Raises:
        UsageError: naming the setting.
    """
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
