"""What a trainer may put on its device: limits to begin with, and what it learns about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from criteria_cli.study.headroom import parse_headroom
from criteria_cli.study.spec import ModelSpec, TrainingSpec
from criteria_cli.training import kept, memory
from criteria_cli.training.assumed import assumed_limits
from criteria_cli.training.batches import Planner
from criteria_cli.training.devices import Device, Precision
from criteria_cli.training.fitting import CONTENTION_BYTES
from criteria_cli.training.keys import memory_key
from criteria_cli.training.memory import Limits, MemoryModel
from criteria_cli.training.probe import ProbeSettings, probe


@dataclass
class Admission:
    """A planner under a device's limits, and the memory model behind them."""

    planner: Planner
    device: Device
    training: TrainingSpec
    measured: bool = False
    """Whether the limits follow from a memory model that was measured."""
    key: str | None = None
    """Names the memory model in the store; None where it is not to be kept."""
    told: MemoryModel | None = None
    """The memory model as the store knows it."""

    def learned(self) -> tuple[str, dict[str, Any]] | None:
        """Key and JSON of the memory model, if there is something that the store does not know."""
        model = self.planner.limits.model
        if self.key is None or model == self.told:
            return None
        self.told = model
        kept.save(self.key, model)
        return self.key, model.to_json()

    def renew(self) -> None:
        """Take up what others have given back, and leave them what they took since.

        Call it between trials: a plan made before it is not valid afterwards.
        """
        if not self.measured:
            return
        cap = _cap(self.device, self.training)
        if abs(cap - self.planner.limits.cap) > CONTENTION_BYTES:
            self.device.set_cap(cap)
            self.planner.limits = _limits(self.planner.limits.model, cap, self.training)


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
    if not training.auto_detect_batch_size:
        rows = _evaluation_rows(training)
        whole = memory.whole_batches(model.max_length, evaluation_rows=rows)
        return Admission(Planner(whole), device, training)
    if device.kind == "cpu":
        limits = assumed_limits(
            module.config,
            module.num_parameters(),
            model.max_length,
            total_bytes=device.total_bytes(),
            free_bytes=device.free_bytes(),
            headroom=training.vram_headroom,
        )
        return Admission(Planner(_scoring(limits, training)), device, training)
    key: str | None = memory_key(device, model, training, precision)
    assert key is not None
    found = kept.load(key, known)
    told = found if key in (known or {}) else None
    if found is None:
        probed = probe(ProbeSettings(device.spelled, model, training), known=known)
        found = probed.memory
        key = None if probed.contended else key  # true now, and not to be kept
    device.use_allocator(found.allocator)
    cap = _cap(device, training)
    device.set_cap(cap)
    planner = Planner(_limits(found, cap, training))
    return Admission(planner, device, training, measured=True, key=key, told=told)


def _cap(device: Device, training: TrainingSpec) -> int:
    headroom = parse_headroom(training.vram_headroom).of(device.total_bytes())
    return memory.cap_bytes(device.free_bytes(), device.reserved_bytes(), headroom)


def _limits(model: MemoryModel, cap: int, training: TrainingSpec) -> Limits:
    return _scoring(Limits.under(model, cap), training)


def _scoring(limits: Limits, training: TrainingSpec) -> Limits:
    rows = _evaluation_rows(training)
    return limits if rows is None else limits.with_evaluation_rows(rows)


def _evaluation_rows(training: TrainingSpec) -> int | None:
    return None if training.eval_batch_size == "auto" else training.eval_batch_size
