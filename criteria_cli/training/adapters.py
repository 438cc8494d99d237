"""Low-rank adapters, through peft: train small additions to a model's matrices, not the matrices.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2022. The classification head is
trained whole. Before a model is exported its adapters are added to the matrices, so that it opens
without peft.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from criteria_cli.errors import MachineError, UsageError
from criteria_cli.study.spec import ModelSpec


def add_adapters(module: PreTrainedModel, spec: ModelSpec) -> None:
    """Put adapters into `module` and leave only them and the head to train.

    Raises:
        UsageError: the architecture has no such matrices.
        MachineError: peft is not installed.
    """
    peft = require_peft()
    targets = _targets(module, spec)
    config = peft.LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=targets,
    )
    peft.inject_adapter_in_model(config, module)
    inside = f"{module.base_model_prefix}."
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(".lora_" in name or not name.startswith(inside))


def has_adapters(module: nn.Module) -> bool:
    """Whether a model's matrices have additions that reading their weights would miss."""
    return any(".lora_" in name for name, _ in module.named_parameters())


def merged(module: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapters added to its matrices: a copy, or itself if it has none."""
    if not has_adapters(module):
        return module
    from peft.tuners.lora import LoraLayer

    plain = copy.deepcopy(module)
    adapted = [name for name, part in plain.named_modules() if isinstance(part, LoraLayer)]
    for name in adapted:
        parent, _, own = name.rpartition(".")
        layer: Any = plain.get_submodule(name)
        layer.merge()
        setattr(plain.get_submodule(parent), own, layer.base_layer)
    vars(plain).pop("peft_config", None)
    return plain


def _targets(module: PreTrainedModel, spec: ModelSpec) -> list[str]:
    """Paths of the linear layers of the encoder that `model.lora_targets` means."""
    inside = f"{module.base_model_prefix}."
    names = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and name.startswith(inside) and ".pooler." not in name
    ]
    if spec.lora_targets == "attention":
        names = [name for name in names if ".attention." in name or ".attn." in name]
    if not names:
        raise UsageError(
            f"`model.lora_targets` = `{spec.lora_targets}` names no matrix of model `{spec.name}`",
            code="model.lora",
        )
    return names


def require_peft() -> Any:
    """The library that adds adapters.

    Raises:
        MachineError: it is not installed.
    """
    try:
        import peft
    except ImportError:
        raise MachineError(
            "`model.lora` needs peft", hint="pip install 'criteria[lora]'", code="machine.peft"
        ) from None
    return peft
