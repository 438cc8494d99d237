"""An NVIDIA or AMD card, through `torch.cuda` alone: that also holds for MIG slices.

Run as a module it prints what it sees as JSON, for processes that have no torch.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from criteria_cli.training.devices import Kind, Peak, Precision, autocast
from criteria_cli.training.visible import (
    DeviceFacts,
    emulated_bytes,
    missing_device,
    require_gpu_support,
)

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
EXPANDABLE = "expandable_segments:True"


class CudaDevice:
    """A card, and this process's share of its memory."""

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
        real = self._properties.total_memory
        self._limit = min(real, emulated_bytes() or real)

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
    def spelled(self) -> str:
        return f"cuda:{self.index}"

    @property
    def allocator(self) -> str:
        options = ",".join(os.environ.get(name, "") for name in ALLOCATOR_VARIABLES)
        return "expandable" if EXPANDABLE.lower() in options.lower() else "segments"

    def use_allocator(self, allocator: str) -> None:
        if allocator == self.allocator:
            return
        options = f"expandable_segments:{allocator == 'expandable'}"
        os.environ[ALLOCATOR_VARIABLES[0]] = options
        # the variable is read once; the running allocator is told through torch
        settings = getattr(torch._C, "_accelerator_setAllocatorSettings", None)  # noqa: SLF001
        (settings or torch.cuda.memory._set_allocator_settings)(options)  # noqa: SLF001

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


def _print_facts() -> None:
    cards = [CudaDevice(index).facts().to_json() for index in range(torch.cuda.device_count())]
    sys.stdout.write(json.dumps(cards))


if __name__ == "__main__":
    _print_facts()
