"""What a device can say and do.

`CpuDevice` is this machine's processor and memory, `CudaDevice` (`cuda.py`) a card, and
`SimulatedCard` (`simulated.py`) a card's memory without a card. Everything else works on the
`Device` interface and knows bytes, never drivers.
"""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from criteria_cli.errors import MachineError
from criteria_cli.training.host import memory_limit, reset_resident_peak, resident_peak

Precision = Literal["fp32", "bf16", "fp16"]
Kind = Literal["cuda", "cpu", "simulated"]

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
    def spelled(self) -> str:
        """The name that `open_device` opens it by, in this and in other processes."""
        ...

    @property
    def supports_bf16(self) -> bool:
        """Whether the hardware itself computes in bf16."""
        ...

    @property
    def allocator(self) -> str:
        """How memory is handed out: `expandable`, `segments` or `system`."""
        ...

    def use_allocator(self, allocator: str) -> None:
        """Hand memory out as named by `allocator`; call before anything is allocated."""
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
    spelled = "cpu"
    allocator = "system"
    torch_device = torch.device("cpu")

    @property
    def name(self) -> str:
        return str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())

    @property
    def supports_bf16(self) -> bool:
        able = torch.cpu.get_capabilities()
        return any(bool(able.get(flag)) for flag in ("avx512_bf16", "amx_bf16", "bf16"))

    def use_allocator(self, allocator: str) -> None:
        """Nothing: the system has one."""

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
