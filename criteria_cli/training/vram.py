"""A card's memory for people who write Python: two questions with one answer each.

Neither keeps a driver's context or a byte of a card in the calling process.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from criteria_cli.study.spec import ModelSpec, TrainingSpec
from criteria_cli.training.probe import ProbeSettings, probe
from criteria_cli.training.visible import visible_devices

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class GpuMemory:
    """One visible card, as torch counts them."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    used_bytes: int
    """By all processes; the driver's part of the process that asked is among it."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def get_gpu_vram_info() -> tuple[GpuMemory, ...]:
    """Every card that `CUDA_VISIBLE_DEVICES` leaves; empty where there is none.

    Raises:
        MachineError: the driver does not answer.
    """
    return tuple(
        GpuMemory(
            index=index,
            name=facts.name,
            total_bytes=facts.total_bytes,
            free_bytes=facts.free_bytes,
            used_bytes=facts.total_bytes - facts.free_bytes,
        )
        for index, facts in enumerate(visible_devices())
    )


def probe_max_batch_size(
    model_name: str,
    tokenizer: PreTrainedTokenizerBase | None,
    max_length: int,
    vram_headroom: float | str = 0.10,
    use_bf16: bool = True,
    *,
    device: str = "auto",
) -> int:
    """The largest micro-batch of `max_length` tokens that training fits on a device.

    On a card it is measured with the step that training runs, in a process of its own, or follows
    from an earlier measurement; on a processor it is assumed from the model's shape.

    Args:
        model_name: a Hugging Face name or a local directory.
        tokenizer: whose token ids are drawn; None draws from all that the model has.
        vram_headroom: what is left free: a share of the card's total, or bytes such as `2GiB`.
        use_bf16: as far as the device has it.
        device: `auto` (the first visible card, or else the processor), `cpu` or `cuda:N`.

    Raises:
        MachineError: not one pair fits, or there is no such device.
        UsageError: the model cannot be used, or `max_length` is above its positions.
        ValueError: the headroom is not above 0 and below 90 %.
    """
    settings = ProbeSettings(
        device=device,
        model=ModelSpec(name=model_name, max_length=max_length),
        training=TrainingSpec(
            vram_headroom=vram_headroom, precision="auto" if use_bf16 else "fp32"
        ),
        vocabulary=None if tokenizer is None else len(tokenizer),
    )
    return probe(settings).train_rows
