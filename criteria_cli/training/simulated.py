"""A card without a card: tensors stay in this machine's memory, their bytes count on a made-up one.

Every storage that torch makes while the card is in use is charged to a `CachingAllocator` under the
card's capacity, and raises torch's own out-of-memory error where a real card would. So the probe,
the planner and the replay run unchanged, with real models and real gradients, where no GPU is.
"""

from __future__ import annotations

import json
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from criteria_cli.errors import UsageError
from criteria_cli.study.headroom import parse_size
from criteria_cli.training.caching_allocator import Block, CachingAllocator, CardFull
from criteria_cli.training.devices import Kind, Peak, Precision, autocast
from criteria_cli.training.visible import SIMULATED_VARIABLE, DeviceFacts

CONTEXT_BYTES = 300 * 2**20
"""What a driver's context takes of a card."""


class SimulatedCard:
    """A card of a given capacity behind the `Device` interface.

    Attributes:
        others_bytes: what other processes hold; may change at any time.
    """

    kind: Kind = "simulated"
    index = 0
    torch_device = torch.device("cpu", 0)
    supports_bf16 = True

    def __init__(
        self,
        capacity: int,
        *,
        expandable: bool = True,
        context_bytes: int = CONTEXT_BYTES,
        others_bytes: int = 0,
        scale: float = 1.0,
        spills: bool = False,
        spelled: str = "simulated",
    ) -> None:
        """
        Args:
            capacity: bytes of the card.
            expandable: which of the allocator's two behaviours.
            context_bytes: what the driver takes before anything else.
            others_bytes: what other processes hold.
            scale: how many bytes each real byte stands for; a small model can act a large one.
            spills: the driver moves memory to the host instead of failing, as on Windows; then
                neither the capacity nor the cap raises.
            spelled: what `parse` made it from.
        """
        self.capacity = capacity
        self.context_bytes = context_bytes
        self.others_bytes = others_bytes
        self.scale = scale
        self.spills = spills
        self.spelled = spelled
        self._cap: int | None = None
        self._memory = CachingAllocator(expandable=expandable)
        self._charged: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._on_host: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @property
    def name(self) -> str:
        return f"simulated card of {self.capacity / 2**30:g} GiB"

    @property
    def identity(self) -> str:
        return f"simulated-{self.capacity}-{self.allocator}"

    @property
    def allocator(self) -> str:
        return "expandable" if self._memory.expandable else "segments"

    def use_allocator(self, allocator: str) -> None:
        """Nothing: the card was made with one."""

    def total_bytes(self) -> int:
        return self.capacity

    def free_bytes(self) -> int:
        held = self.others_bytes + self.context_bytes + self._memory.reserved
        return max(0, self.capacity - held)

    def reserved_bytes(self) -> int:
        return self._memory.reserved

    def used_by_others(self) -> int:
        return max(0, self.total_bytes() - self.free_bytes() - self.reserved_bytes())

    def set_cap(self, cap: int | None) -> None:
        self._cap = cap

    def reset_peak(self) -> None:
        self._memory.reset_peak()

    def peak(self) -> Peak:
        memory = self._memory
        return Peak(
            memory.peak_requested,
            memory.peak_allocated,
            memory.peak_reserved,
            memory.retries,
            memory.ooms,
        )

    @contextmanager
    def use(self) -> Iterator[None]:
        with _Charge(self):
            yield

    def autocast(self, precision: Precision) -> AbstractContextManager[Any]:
        return autocast("cpu", precision)

    def random_state(self) -> list[torch.Tensor]:
        return [torch.get_rng_state()]

    def set_random_state(self, state: list[torch.Tensor]) -> None:
        torch.set_rng_state(state[0])

    def synchronize(self) -> None:
        """Nothing: the work is done when it returns."""

    def empty_cache(self) -> None:
        self._memory.empty_cache()

    def facts(self) -> DeviceFacts:
        """What a process without torch may know about this card."""
        return DeviceFacts(
            device=self.spelled,
            name=self.name,
            identity=self.spelled,
            total_bytes=self.total_bytes(),
            free_bytes=self.free_bytes(),
            capability="",
            supports_bf16=self.supports_bf16,
        )

    def malloc(self, size: int) -> Block:
        """Take `size` bytes of the card, before scaling.

        Raises:
            torch.OutOfMemoryError: in the words of torch's allocator.
        """
        wanted = int(size * self.scale)
        try:
            return self._memory.malloc(wanted, self._room())
        except CardFull:
            allowed = "" if self._cap is None else f" {self._cap / 2**30:.2f} GiB allowed;"
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {wanted / 2**20:.2f} MiB. GPU 0 has a "
                f"total capacity of {self.capacity / 2**30:.2f} GiB of which "
                f"{self.free_bytes() / 2**20:.2f} MiB is free.{allowed}"
            ) from None

    def release(self, block: Block) -> None:
        self._memory.release(block)

    def leave_on_host(self, tensor: torch.Tensor) -> None:
        """Never count this tensor's storage: it is the host's."""
        storage = tensor.untyped_storage()
        key, table = id(storage), self._on_host

        def died(reference: weakref.ref[torch.UntypedStorage]) -> None:
            if table.get(key) is reference:
                del table[key]

        table[key] = weakref.ref(storage, died)

    def charge(self, tensor: torch.Tensor) -> None:
        """Count the tensor's storage, if it is not counted yet, until it dies."""
        storage = tensor.untyped_storage()
        key = id(storage)
        known = self._charged.get(key)
        if (known is not None and known() is storage) or storage.nbytes() == 0:
            return
        on_host = self._on_host.get(key)
        if on_host is not None and on_host() is storage:
            return
        block = self.malloc(storage.nbytes())
        memory, table = self._memory, self._charged

        def died(reference: weakref.ref[torch.UntypedStorage]) -> None:
            memory.release(block)
            if table.get(key) is reference:
                del table[key]

        table[key] = weakref.ref(storage, died)

    def _room(self) -> float:
        if self.spills:
            return float("inf")
        physical = self.capacity - self.others_bytes - self.context_bytes
        return physical if self._cap is None else min(physical, self._cap)


_COPIES = ("aten::copy_", "aten::_foreach_copy_", "aten::_to_copy")
"""Operations that move memory between host and card."""


class _Charge(TorchDispatchMode):
    """Charges every storage that an operation reads or makes, once, while it lives.

    The card's tensors lie on `cpu:0` and the host's on `cpu`, which torch keeps apart only when
    they are asked for. What is asked for on the host stays free until it is computed with.
    """

    def __init__(self, card: SimulatedCard) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self._card = card

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func.name().partition(".")[0]
        if name not in _COPIES:
            # what is computed with must be on the card: parameters loaded before, for example
            self._charge((args, kwargs))
        asked = (kwargs or {}).get("device")
        result = func(*args, **(kwargs or {}))
        if asked is not None and asked.type == "cpu" and asked.index is None:
            if name.endswith("_like"):
                self._card.leave_on_host(result)
            return result
        self._charge(result)
        return result

    def _charge(self, values: Any) -> None:
        for value in tree_iter(values):
            if isinstance(value, torch.Tensor):
                self._card.charge(value)


def parse(name: str) -> SimulatedCard:
    """The card that a name describes: `simulated:8GiB,segments,scale=100,others=2GiB,spills`.

    Raises:
        UsageError: a word that means nothing here.
    """
    words = name.partition(":")[2].split(",")
    options: dict[str, Any] = {}
    try:
        capacity = parse_size(words[0])
        for word in words[1:]:
            key, _, value = word.partition("=")
            match key:
                case "segments" | "expandable":
                    options["expandable"] = key == "expandable"
                case "spills":
                    options["spills"] = True
                case "scale":
                    options["scale"] = float(value)
                case "others" | "context":
                    options[f"{key}_bytes"] = parse_size(value)
                case _:
                    raise ValueError(f"unknown word `{word}`")
    except ValueError as error:
        raise UsageError(f"device `{name}`: {error}", code="device.name") from None
    return SimulatedCard(capacity, spelled=name, **options)


def _print_facts() -> None:
    """The cards of the environment as JSON, as `cuda.py` prints those of the machine."""
    names = os.environ[SIMULATED_VARIABLE].split(";")
    sys.stdout.write(json.dumps([parse(name).facts().to_json() for name in names]))


if __name__ == "__main__":
    _print_facts()
