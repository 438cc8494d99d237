"""The optimiser of a fold: parameter groups, AdamW on memory that is reused, learning rates.

AdamW is Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019. Biases and
normalisation weights are not decayed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from criteria_cli.errors import UsageError
from criteria_cli.study.spec import TrainingSpec

_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
_BELOW = re.compile(r"(?:^|\.)(?:embeddings|rel_embeddings|encoder\.LayerNorm)(?:\.|$)")
_FIRST_LAYER = re.compile(r"(?:^|\.)encoder\.conv\.")


def depth(name: str, layers: int) -> int:
    """How far above the input a parameter sits: 0 embeddings, 1 the lowest layer, up to
    `layers`, and `layers + 1` for the head.

    DeBERTa's relative embeddings and their normalisation count as embeddings, its convolution as
    the lowest layer.
    """
    if match := _LAYER.search(name):
        return int(match[1]) + 1
    if _BELOW.search(name):
        return 0
    return 1 if _FIRST_LAYER.search(name) else layers + 1


def layer_count(module: nn.Module) -> int:
    """Transformer layers of a model, from its parameters' names."""
    found = (_LAYER.search(name) for name, _ in module.named_parameters())
    return max((int(match[1]) + 1 for match in found if match), default=0)


def freeze(module: nn.Module, frozen_layers: int) -> None:
    """Take the embeddings and the lowest `frozen_layers` layers out of training; 0 takes nothing.

    Raises:
        UsageError: the model has fewer layers.
    """
    if not frozen_layers:
        return
    layers = layer_count(module)
    if frozen_layers > layers:
        raise UsageError(
            f"`training.frozen_layers` is {frozen_layers}, but the model has {layers} layers",
            code="training.frozen_layers",
        )
    for name, parameter in module.named_parameters():
        if depth(name, layers) <= frozen_layers:
            parameter.requires_grad_(False)


def parameter_groups(module: nn.Module, training: TrainingSpec) -> list[dict[str, Any]]:
    """Trainable parameters by weight decay and by share of the learning rate.

    The share stands under `share`: `layerwise_lr_decay` to the power of how many layers a
    parameter lies below the top one.
    """
    layers = layer_count(module)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        below_top = max(0, layers - depth(name, layers))
        decay = training.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((training.layerwise_lr_decay**below_top, decay), []).append(parameter)
    return [
        {"params": parameters, "share": share, "weight_decay": decay}
        for (share, decay), parameters in groups.items()
    ]


class OptimizerMemory:
    """AdamW's two moments for every parameter of a resident model, allocated once."""

    def __init__(self) -> None:
        self._moments: dict[Tensor, tuple[Tensor, Tensor, Tensor]] = {}

    def build(self, module: nn.Module, training: TrainingSpec) -> torch.optim.AdamW:
        """A fused AdamW at its beginning, on the memory of the one before."""
        groups = parameter_groups(module, training)
        optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)
        trained = [parameter for group in groups for parameter in group["params"]]
        kept = {}
        for parameter in trained:
            kept[parameter] = self._moments.get(parameter) or (
                torch.zeros((), dtype=torch.float32, device=parameter.device),
                torch.zeros_like(parameter, memory_format=torch.preserve_format),
                torch.zeros_like(parameter, memory_format=torch.preserve_format),
            )
        self._moments = kept
        if kept:
            with torch.no_grad():
                torch._foreach_zero_([moment for moments in kept.values() for moment in moments])
        for parameter, (step, mean, square) in kept.items():
            optimizer.state[parameter] = {"step": step, "exp_avg": mean, "exp_avg_sq": square}
        return optimizer


def state_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by parameter name, for a checkpoint: the tensors themselves."""
    return {
        f"{key}.{name}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


def trained_parameters(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def learning_rates(training: TrainingSpec, steps: int) -> Callable[[int], float]:
    """The learning rate of each optimiser step, counted from 0 to `steps` - 1.

    It rises over `ceil(warmup_ratio * steps)` steps, the first of which already learns, and then
    falls to nearly nothing at the last: the schedule of a trial is a function of its epochs,
    pairs and batch size alone.
    """
    warmup = math.ceil(training.warmup_ratio * steps)
    falling = max(1, steps - warmup)
    curve = _CURVES[training.scheduler]

    def rate(step: int) -> float:
        if step < warmup:
            return training.learning_rate * (step + 1) / warmup
        progress = min(1.0, (step - warmup) / falling)
        return training.learning_rate * curve(progress, training.scheduler_cycles)

    return rate


def _linear(progress: float, _cycles: int) -> float:
    return 1.0 - progress


def _cosine(progress: float, _cycles: int) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _cosine_with_restarts(progress: float, cycles: int) -> float:
    return _cosine((progress * cycles) % 1.0, cycles)


def _constant(_progress: float, _cycles: int) -> float:
    return 1.0


_CURVES: dict[str, Callable[[float, int], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "constant": _constant,
}
