"""What is assumed of a device that is not measured: a processor.

Running out of memory on a processor kills the process instead of raising, so nothing is tried; the
coefficients follow from the model's shape, and half of the room is left unused.
"""

from __future__ import annotations

from typing import Protocol

from criteria_cli.errors import MachineError
from criteria_cli.training.memory import Curve, Limits, MemoryModel, cap_bytes, parse_headroom

ASSUMED_FILL = 0.5
"""The share of the memory for activations that micro-batches may fill."""
FLOPS_PER_SECOND = 5e10
"""Of one core, roughly: only the proportions of costs matter to a plan."""


class EncoderConfig(Protocol):
    """The part of a Hugging Face encoder configuration that sizes depend on."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int


def assumed_model(config: EncoderConfig, parameters: int, max_length: int) -> MemoryModel:
    """A memory model from the architecture alone, for a processor in fp32.

    The coefficients are those fitted to DeBERTa-v3-base (float32, dropout on), per layer and
    hidden unit, per layer and head, and rounded up; BERT-like models need less.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    heads = config.num_attention_heads
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    buckets = int(getattr(config, "position_buckets", 0) or 0)
    forward_token = 2.0 * layers * (4 * hidden * hidden + 2 * hidden * inner) / FLOPS_PER_SECOND
    forward_pair = 4.0 * layers * hidden / FLOPS_PER_SECOND
    return MemoryModel(
        max_length=max_length,
        # weights, gradients and Adam's two moments, four bytes each
        train=Curve(16.0 * parameters, 8.0 * layers * buckets * hidden, 120.0 * layers * hidden,
                    12.0 * layers * heads),
        evaluate=Curve(12.0 * parameters, 8.0 * buckets * hidden, 48.0 * hidden, 16.0 * heads),
        optimizer_peak=16 * parameters,
        train_seconds=Curve(5e-4 * layers, 0.0, 3 * forward_token, 3 * forward_pair),
        evaluate_seconds=Curve(2e-4 * layers, 0.0, forward_token, forward_pair),
        allocator="system",
        train_fill=ASSUMED_FILL,
        evaluate_fill=ASSUMED_FILL,
        source="assumed",
        resident={
            "parameters": 4 * parameters,
            "gradients": 4 * parameters,
            "optimizer": 8 * parameters,
        },
    )  # fmt: skip


def assumed_limits(
    config: EncoderConfig,
    parameters: int,
    max_length: int,
    *,
    total_bytes: int,
    free_bytes: int,
    headroom: float | str = 0.10,
) -> Limits:
    """Limits for a device that is not measured: a processor, before the model is loaded.

    Raises:
        MachineError: the headroom is all the memory there is, or more.
    """
    model = assumed_model(config, parameters, max_length)
    kept = parse_headroom(headroom).of(total_bytes)
    if kept >= total_bytes:
        raise MachineError(
            f"a headroom of {kept / 2**30:.4g} GiB leaves nothing of {total_bytes / 2**30:.4g} GiB",
            hint="set `training.vram_headroom` to a share such as 10% or to fewer bytes",
            code="machine.memory",
        )
    return Limits.under(model, cap_bytes(free_bytes, 0, kept))
