"""Where an architecture reads its dropout rates, found by asking the architecture.

Every architecture names its rates its own way (`classifier_dropout` means nothing to DeBERTa,
which reads `cls_dropout` and `pooler_dropout`). Instead of a table, the classifier is built a
second time without storage, with a marked rate in each field of its configuration; the places
where the mark turns up are the places to set.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from criteria_cli.errors import UsageError

FIELDS: dict[str, tuple[str, ...]] = {
    "hidden_dropout": (
        "hidden_dropout_prob",
        "hidden_dropout",
        "dropout",
        "mlp_dropout",
        "embedding_dropout",
    ),
    "attention_dropout": ("attention_probs_dropout_prob", "attention_dropout"),
    "classifier_dropout": (
        "classifier_dropout",
        "classifier_dropout_prob",
        "seq_classif_dropout",
        "cls_dropout",
        "pooler_dropout",
    ),
}
"""Names under which configurations keep a rate, by our setting."""

_UNDECLARED = {"deberta": ("cls_dropout",), "deberta-v2": ("cls_dropout",)}
"""Fields that an architecture reads although its configuration does not declare them."""

_MARK = 0.40625
_ABSENT = object()


@dataclass(frozen=True)
class _Site:
    """One place that holds a rate: a dropout module, or a number on another module."""

    owner: nn.Module
    attribute: str
    own: float
    """The checkpoint's own rate."""

    def set(self, rate: float) -> None:
        setattr(self.owner, self.attribute, rate)


@dataclass(frozen=True)
class DropoutSites:
    """The places of a classifier's dropout rates, by our setting's name."""

    config: PretrainedConfig
    sites: Mapping[str, tuple[_Site, ...]]
    own_fields: Mapping[str, Any]

    @classmethod
    def of(cls, module: PreTrainedModel) -> DropoutSites:
        """The places in `module`, whose rates are the checkpoint's own."""
        config = module.config
        fields = {name: _fields(config, name) for name in FIELDS}
        marked = {name: _marked(config, names) for name, names in fields.items() if names}
        if not marked.get("classifier_dropout"):
            # an architecture without a rate of its own there still may have the module
            inside = f"{module.base_model_prefix}."
            marked["classifier_dropout"] = [
                (path, "p")
                for path, part in module.named_modules()
                if isinstance(part, nn.Dropout) and not path.startswith(inside)
            ]
        sites = {
            name: tuple(_site(module, path, attribute) for path, attribute in places)
            for name, places in marked.items()
        }
        own = {field: getattr(config, field, _ABSENT) for part in fields.values() for field in part}
        return cls(config, sites, own)

    def has(self, setting: str) -> bool:
        """Whether `hidden_dropout`, `attention_dropout` or `classifier_dropout` has a place."""
        return bool(self.sites.get(setting))

    def apply(self, rates: Mapping[str, float | None], name: str) -> None:
        """Set `rates` by setting, in the order of `FIELDS`; None restores the checkpoint's own.

        Raises:
            UsageError: a rate for which the architecture of model `name` has no place.
        """
        for setting, rate in rates.items():
            if rate is not None and not self.has(setting):
                raise UsageError(
                    f"`model.{setting}` has no place in model `{name}` "
                    f"(`{self.config.model_type}`)",
                    code="model.dropout",
                )
        for places in self.sites.values():
            for site in places:
                site.set(site.own)
        for field, value in self.own_fields.items():
            if value is not _ABSENT:
                setattr(self.config, field, value)
            elif hasattr(self.config, field):
                delattr(self.config, field)
        for setting in FIELDS:
            rate = rates.get(setting)
            if rate is None:
                continue
            for site in self.sites[setting]:
                site.set(rate)
            for field in _fields(self.config, setting):
                setattr(self.config, field, rate)


def _fields(config: PretrainedConfig, setting: str) -> list[str]:
    undeclared = _UNDECLARED.get(config.model_type, ())
    return [name for name in FIELDS[setting] if hasattr(config, name) or name in undeclared]


def _marked(config: PretrainedConfig, fields: list[str]) -> list[tuple[str, str]]:
    """Paths and attributes that take their rate from one of `fields`."""
    config = copy.deepcopy(config)
    for field in fields:
        setattr(config, field, _MARK)
    with torch.device("meta"), no_init_weights():
        blueprint = AutoModelForSequenceClassification.from_config(config)
    places = []
    for path, part in blueprint.named_modules():
        if isinstance(part, nn.Dropout):
            if part.p == _MARK:
                places.append((path, "p"))
            continue
        places += [(path, key) for key, value in vars(part).items() if value == _MARK]
    return places


def _site(module: PreTrainedModel, path: str, attribute: str) -> _Site:
    part = module.get_submodule(path)
    if isinstance(part, nn.Identity):
        # some architectures leave the module out where the rate is 0
        parent, _, name = path.rpartition(".")
        part = nn.Dropout(0.0)
        setattr(module.get_submodule(parent), name, part)
    return _Site(part, attribute, float(getattr(part, attribute)))
