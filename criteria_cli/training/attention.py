"""How a model is run on a batch: the checkpoint's own code, or an exact faster one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from criteria_cli.training.devices import Device
from criteria_cli.training.tokens import TokenBatch


@dataclass(frozen=True)
class Inputs:
    """A batch of pairs on a device."""

    ids: Tensor
    """(rows, width) int64."""
    mask: Tensor | None
    """(rows, width) bool, True at tokens; None where no row is padded."""
    types: Tensor | None
    """(rows, width) int64 token types, or None."""

    @classmethod
    def of(cls, batch: TokenBatch, device: torch.device) -> Inputs:
        """Copy a batch to `device`; from pinned memory, without waiting."""

        def move(array: object) -> Tensor:
            tensor = torch.as_tensor(array)
            if device.type == "cuda":
                tensor = tensor.pin_memory()
            return tensor.to(device, non_blocking=True)

        width = batch.ids.shape[1]
        mask = None
        if batch.padded:
            mask = torch.arange(width, device=device) < move(batch.lengths).unsqueeze(1)
        return cls(move(batch.ids), mask, None if batch.types is None else move(batch.types))


Forward = Callable[[Inputs], Tensor]
"""Inputs to logits (rows, outputs)."""


def choose_forward(module: PreTrainedModel, device: Device, attention: str) -> Forward:
    """The way to run `module` on `device`: `reference` is the checkpoint's own code."""
    del device, attention
    return reference_forward(module)


def reference_forward(module: PreTrainedModel) -> Forward:
    """The model's own forward."""
    takes_types = getattr(module.config, "type_vocab_size", 0) > 1

    def forward(inputs: Inputs) -> Tensor:
        mask = torch.ones_like(inputs.ids) if inputs.mask is None else inputs.mask.long()
        types = {"token_type_ids": inputs.types} if takes_types else {}
        logits = module(input_ids=inputs.ids, attention_mask=mask, **types).logits
        assert isinstance(logits, Tensor)
        return logits

    return forward
