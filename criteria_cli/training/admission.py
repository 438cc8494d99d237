"""What a trainer may put on its device: limits to begin with, and what it learns about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from criteria_cli.study.headroom import parse_headroom
from criteria_cli.study.spec import ModelSpec, TrainingSpec
from criteria_cli.training import kept, memory
from criteria_cli.training.batches import Planner
from criteria_cli.training.devices import Device, Precision
from criteria_cli.training.keys import memory_key
from criteria_cli.training.memory import Limits, MemoryModel
from criteria_cli.training.probe import ProbeSettings, probe


@dataclass
class Admission:
    """A planner under the device's limits, and the memory model behind them."""

    planner: Planner
    key: str | None
    """Names the memory model in the store; None where nothing was measured."""
    told: MemoryModel | None
    """The memory model as the store knows it."""

    def learned(self) -> tuple[str, dict[str, Any]] | None:
        """Key and JSON of the memory model, if there is something that the store does not know."""
        model = self.planner.limits.model
        if self.key is None or model == self.told:
            return None
        self.told = model
        return self.key, model.to_json()


def admit(
    device: Device,
    precision: Precision,
    model: ModelSpec,
    training: TrainingSpec,
    module: PreTrainedModel,
    *,
    known: Mapping[str, Any] | None = None,
) -> Admission:
    """Find out what fits on the device, and bound this process to it.

    Call it before the model goes to the device: a probe needs the room.

    Args:
        model: with the longest input that the study may sample.
        module: the model itself, for a processor's assumptions.
        known: memory models as JSON by key, as the store keeps them.

    Raises:
        MachineError: not one pair fits, or the probe dies.
    """
    rows = None if training.eval_batch_size == "auto" else training.eval_batch_size
    longest = model.max_length
    if not training.auto_detect_batch_size:
        return Admission(Planner(memory.whole_batches(longest, evaluation_rows=rows)), None, None)
    if device.kind == "cpu":
        limits = memory.assumed_limits(
            module.config,
            module.num_parameters(),
            longest,
            total_bytes=device.total_bytes(),
            free_bytes=device.free_bytes(),
            headroom=training.vram_headroom,
        )
        return _admission(limits, rows, None, None)
    key = memory_key(device, model, training, precision)
    found = kept.load(key, known)
    told = found if key in (known or {}) else None
    if found is None:
        probed = probe(ProbeSettings(device.spelled, model, training), known=known)
        found = probed.memory
        if probed.contended:
            key = told = None  # type: ignore[assignment]  # true now, and not to be kept
    device.use_allocator(found.allocator)
    headroom = parse_headroom(training.vram_headroom).of(device.total_bytes())
    cap = memory.cap_bytes(device.free_bytes(), device.reserved_bytes(), headroom)
    device.set_cap(cap)
    return _admission(Limits.under(found, cap), rows, key, told)


def _admission(
    limits: Limits, rows: int | None, key: str | None, told: MemoryModel | None
) -> Admission:
    planner = Planner(limits if rows is None else limits.with_evaluation_rows(rows))
    return Admission(planner, key, told)
