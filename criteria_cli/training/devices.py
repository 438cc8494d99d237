"""What a device can say and do. The only place in training that names CUDA.

`CudaDevice` is a card, `CpuDevice` this machine's processor and memory, and `SimulatedCard`
(`simulated.py`) a card's memory without a card. Everything else works on the `Device` interface
and knows bytes, never drivers.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from criteria_cli.errors import MachineError, UsageError
from criteria_cli.study.headroom import parse_size
from criteria_cli.training.host import memory_limit, reset_resident_peak, resident_peak
from criteria_cli.training.visible import (
    DeviceFacts,
    missing_device,
    require_gpu_support,
    torch_has_gpu_support,
)

Precision = Literal["fp32", "bf16", "fp16"]
Kind = Literal["cuda", "cpu", "simulated"]

LIMIT_VARIABLE = "CRITERIA_VRAM_LIMIT"
"""Bytes such as `24GiB`: a large card stands for a smaller one."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Peak:
    """The most memory since `reset_peak`, in bytes, as the caching allocator counts it."""

    requested: int
    """What tensors asked for: linear in the micro-batch, so models are fitted to it."""
    allocated: int
    """Blocks that held them."""
    reserved: int
    """Segments taken from the card: what the cap bounds."""
    retries: int
    """Times the allocator gave back its cache and tried again, since `reset_peak`."""
    ooms: int
    """Out-of-memory errors since `reset_peak`."""


class Device(Protocol):
    """A place where a model is trained, and what is known about its memory."""

    @property
    def name(self) -> str:
        """The device's own name, such as `NVIDIA A100-SXM4-40GB`."""
        ...

    @property
    def kind(self) -> Kind: ...

    @property
    def index(self) -> int:
        """Its number among the visible ones."""
        ...

    @property
    def torch_device(self) -> torch.device:
        """Where tensors go."""
        ...

    @property
    def identity(self) -> str:
        """The card's or MIG slice's UUID: two processes with the same one share its memory."""
        ...

    @property
    def supports_bf16(self) -> bool:
        """Whether the hardware itself computes in bf16."""
        ...

    @property
    def allocator(self) -> str:
        """How memory is handed out: `expandable`, `segments` or `system`."""
        ...

    def total_bytes(self) -> int: ...

    def free_bytes(self) -> int:
        """What nobody holds, this process's cache counted as held."""
        ...

    def reserved_bytes(self) -> int:
        """What this process's allocator holds."""
        ...

    def used_by_others(self) -> int:
        """What neither is free nor held by our allocator: other processes, and our own context."""
        ...

    def set_cap(self, cap: int | None) -> None:
        """Bound this process's allocator to `cap` bytes, or lift the bound."""
        ...

    def reset_peak(self) -> None: ...

    def peak(self) -> Peak: ...

    def use(self) -> AbstractContextManager[None]:
        """Inside, what is allocated belongs to this device."""
        ...

    def autocast(self, precision: Precision) -> AbstractContextManager[Any]: ...

    def random_state(self) -> list[torch.Tensor]:
        """The state of every generator that a step draws from."""
        ...

    def set_random_state(self, state: list[torch.Tensor]) -> None: ...

    def synchronize(self) -> None: ...

    def empty_cache(self) -> None: ...


class CpuDevice:
    """This machine's processor. Its memory is what the operating system leaves this process."""

    kind: Kind = "cpu"
    index = 0
    identity = "cpu"
    allocator = "system"
    torch_device = torch.device("cpu")

    @property
    def name(self) -> str:
        return str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())

    @property
    def supports_bf16(self) -> bool:
        able = torch.cpu.get_capabilities()
        return any(bool(able.get(flag)) for flag in ("avx512_bf16", "amx_bf16", "bf16"))

    def total_bytes(self) -> int:
        return memory_limit().total_bytes

    def free_bytes(self) -> int:
        return memory_limit().free_bytes

    def reserved_bytes(self) -> int:
        return 0

    def used_by_others(self) -> int:
        limit = memory_limit()
        return limit.total_bytes - limit.free_bytes

    def set_cap(self, cap: int | None) -> None:
        """Nothing: the system has no bound that raises instead of killing."""

    def reset_peak(self) -> None:
        reset_resident_peak()

    def peak(self) -> Peak:
        """The resident peak of the process, where the system tells it."""
        resident = resident_peak()
        return Peak(resident, resident, resident, 0, 0)

    def use(self) -> AbstractContextManager[None]:
        return nullcontext()

    def autocast(self, precision: Precision) -> AbstractContextManager[Any]:
        return autocast("cpu", precision)

    def random_state(self) -> list[torch.Tensor]:
        return [torch.get_rng_state()]

    def set_random_state(self, state: list[torch.Tensor]) -> None:
        torch.set_rng_state(state[0])

    def synchronize(self) -> None:
        """Nothing: work on the processor is done when it returns."""

    def empty_cache(self) -> None:
        """Nothing: the C library keeps no cache of its own worth returning."""


class CudaDevice:
    """A card, through `torch.cuda` alone: that also holds for MIG slices and ROCm."""

    kind: Kind = "cuda"

    def __init__(self, index: int) -> None:
        require_gpu_support()
        count = torch.cuda.device_count()
        if index >= count:
            raise missing_device(index, count)
        self.index = index
        self.torch_device = torch.device("cuda", index)
        self._properties = torch.cuda.get_device_properties(index)
        self._retries = self._ooms = 0
        self._limit = _emulated_total(self._properties.total_memory)

    @property
    def name(self) -> str:
        return str(self._properties.name)

    @property
    def identity(self) -> str:
        return str(getattr(self._properties, "uuid", "")) or f"{self.name} {self.index}"

    @property
    def capability(self) -> str:
        return f"{self._properties.major}.{self._properties.minor}"

    @property
    def supports_bf16(self) -> bool:
        with self.use():
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))

    @property
    def allocator(self) -> str:
        options = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get(
            "PYTORCH_CUDA_ALLOC_CONF", ""
        )
        return "expandable" if "expandable_segments:true" in options.lower() else "segments"

    def total_bytes(self) -> int:
        return self._limit

    def free_bytes(self) -> int:
        free, real_total = torch.cuda.mem_get_info(self.index)
        # an emulated smaller card: whatever is used on the real one would be used on it
        return max(0, self._limit - (real_total - free))

    def reserved_bytes(self) -> int:
        return torch.cuda.memory_reserved(self.index)

    def used_by_others(self) -> int:
        return max(0, self.total_bytes() - self.free_bytes() - self.reserved_bytes())

    def set_cap(self, cap: int | None) -> None:
        share = 1.0 if cap is None else cap / self._properties.total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, share)), self.index)

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.index)
        stats = torch.cuda.memory_stats(self.index)
        self._retries = stats.get("num_alloc_retries", 0)
        self._ooms = stats.get("num_ooms", 0)

    def peak(self) -> Peak:
        stats = torch.cuda.memory_stats(self.index)
        return Peak(
            requested=stats.get("requested_bytes.all.peak", 0),
            allocated=stats.get("allocated_bytes.all.peak", 0),
            reserved=stats.get("reserved_bytes.all.peak", 0),
            retries=stats.get("num_alloc_retries", 0) - self._retries,
            ooms=stats.get("num_ooms", 0) - self._ooms,
        )

    @contextmanager
    def use(self) -> Iterator[None]:
        with torch.cuda.device(self.index):
            yield

    def autocast(self, precision: Precision) -> AbstractContextManager[Any]:
        return autocast("cuda", precision)

    def random_state(self) -> list[torch.Tensor]:
        return [torch.get_rng_state(), torch.cuda.get_rng_state(self.index)]

    def set_random_state(self, state: list[torch.Tensor]) -> None:
        torch.set_rng_state(state[0])
        torch.cuda.set_rng_state(state[1], self.index)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.index)

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()

    def facts(self) -> DeviceFacts:
        """What a process without torch may know about this card."""
        return DeviceFacts(
            device=f"cuda:{self.index}",
            name=self.name,
            identity=self.identity,
            total_bytes=self.total_bytes(),
            free_bytes=self.free_bytes(),
            capability=self.capability,
            supports_bf16=self.supports_bf16,
        )


def open_device(name: str) -> Device:
    """The device `cpu`, `cuda`, `cuda:N`, `auto` or `simulated:...` (see `simulated.parse`).

    `auto` is the first visible card, or the CPU where torch sees none.

    Raises:
        UsageError: a name of another form.
        MachineError: no such device.
    """
    if name == "auto":
        usable = torch_has_gpu_support() and torch.cuda.is_available()
        return CudaDevice(0) if usable else CpuDevice()
    if name == "cpu":
        return CpuDevice()
    if name.startswith("simulated:"):
        from criteria_cli.training.simulated import parse  # only tests and benchmarks need it

        return parse(name)
    match = re.fullmatch(r"cuda(?::(\d{1,4}))?", name)
    if match is None:
        raise UsageError(
            f"`--device` must be `auto`, `cpu` or `cuda:N`, not `{name}`", code="device.name"
        )
    return CudaDevice(int(match[1] or 0))


def precision_for(device: Device, wanted: str) -> Precision:
    """The precision that `training.precision` means on this device.

    Raises:
        MachineError: `bf16` on a card without it.
    """
    if wanted == "auto":
        return "bf16" if device.supports_bf16 else "fp32"
    if wanted == "bf16" and device.kind == "cuda" and not device.supports_bf16:
        raise MachineError(
            f"GPU {device.index} ({device.name}) has no bf16",
            hint='set `training.precision = "fp16"` or "fp32"',
            code="machine.no_bf16",
        )
    if wanted == "fp16" and device.kind != "cuda":
        raise MachineError(
            "`training.precision` is `fp16`, which needs a GPU",
            hint='set `training.precision = "auto"`',
            code="machine.no_fp16",
        )
    if wanted not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"unknown precision `{wanted}`")
    return wanted  # type: ignore[return-value]  # narrowed by the line above


def autocast(kind: str, precision: Precision) -> AbstractContextManager[Any]:
    """torch.autocast of a device type, or nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(kind, dtype=_DTYPES[precision])


def _emulated_total(real: int) -> int:
    """The card's total, or less if `CRITERIA_VRAM_LIMIT` says so."""
    text = os.environ.get(LIMIT_VARIABLE)
    if not text:
        return real
    try:
        limit = parse_size(text)
    except ValueError as error:
        raise UsageError(f"{LIMIT_VARIABLE}: {error}", code="device.limit") from None
    return min(real, limit)


def _print_facts() -> None:
    cards = [CudaDevice(index).facts().to_json() for index in range(torch.cuda.device_count())]
    sys.stdout.write(json.dumps(cards))


if __name__ == "__main__":
    _print_facts()
