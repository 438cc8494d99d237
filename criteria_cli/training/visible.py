"""Which cards this machine shows, told without importing torch here.

A supervisor asks; a short child process imports torch and answers as JSON. Where the installed
torch has no GPU support, or the machine has no GPU driver, no child is started.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from criteria_cli.errors import MachineError, UsageError
from criteria_cli.failpoints import TESTING
from criteria_cli.study.headroom import parse_size

LIMIT_VARIABLE = "CRITERIA_VRAM_LIMIT"
"""Bytes such as `24GiB`: a large card stands for a smaller one."""
SIMULATED_VARIABLE = "CRITERIA_SIMULATED"
"""Under tests: names of simulated cards, separated by `;`, that stand for this machine's."""
TIMEOUT_S = 120.0
"""The longest that importing torch and asking the driver may take."""
_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd", "/dev/nvhost-ctrl-gpu")
"""What the drivers of NVIDIA, WSL, AMD and Tegra show."""


@dataclass(frozen=True)
class DeviceFacts:
    """One visible card, as torch names it."""

    device: str
    """`cuda:N`, counted among the visible cards."""
    name: str
    identity: str
    """The card's UUID, or that of the MIG slice."""
    total_bytes: int
    free_bytes: int
    capability: str
    """Compute capability such as `8.6`."""
    supports_bf16: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DeviceFacts:
        return cls(**value)


def torch_version() -> str:
    """The installed torch, with its local part, such as `2.13.0+cpu`."""
    return version("torch")


def torch_has_gpu_support() -> bool:
    """Whether the installed torch was built for CUDA or ROCm, read from its `version.py`."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    return re.search(r"^(cuda|hip)\b[^=]*=\s*['\"]", text, re.MULTILINE) is not None


def emulated_bytes() -> int | None:
    """The size that a larger card is to stand for; None without `CRITERIA_VRAM_LIMIT`.

    Raises:
        UsageError: its value is no size.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    if not text:
        return None
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"{LIMIT_VARIABLE} {error}", code="device.limit") from None


def require_gpu_support() -> None:
    """Raise unless a GPU could be used at all.

    Raises:
        MachineError: torch has no GPU support, or the environment hides every card.
    """
    if not torch_has_gpu_support():
        raise MachineError(
            f"this torch ({torch_version()}) has no CUDA support",
            hint="use `--device cpu`, or install torch's CUDA build",
            code="machine.no_cuda",
        )
    if os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1"):
        raise MachineError(
            "no GPU is visible: CUDA_VISIBLE_DEVICES is empty",
            hint="unset CUDA_VISIBLE_DEVICES, or use `--device cpu`",
            code="machine.no_gpu",
        )


def visible_devices(*, timeout_s: float = TIMEOUT_S) -> tuple[DeviceFacts, ...]:
    """The cards that `CUDA_VISIBLE_DEVICES` leaves, in torch's order; empty if there are none.

    Raises:
        MachineError: the driver does not answer.
        UsageError: `CRITERIA_VRAM_LIMIT` is no size.
    """
    emulated_bytes()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1")
    module = "criteria_cli.training.cuda"
    if TESTING and os.environ.get(SIMULATED_VARIABLE):
        module = "criteria_cli.training.simulated"
    elif hidden or not torch_has_gpu_support() or not any(Path(p).exists() for p in _DRIVERS):
        return ()
    try:
        child = subprocess.run(
            [sys.executable, "-m", module],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MachineError(
            f"the GPU driver did not answer within {timeout_s:.0f} s", code="machine.driver"
        ) from None
    if child.returncode != 0:
        last = child.stderr.strip().splitlines()[-1:] or ["no message"]
        raise MachineError(f"the GPU driver cannot be used: {last[0]}", code="machine.driver")
    return tuple(DeviceFacts.from_json(value) for value in json.loads(child.stdout))


def missing_device(index: int, count: int) -> MachineError:
    """The error for a card that is not there."""
    if count == 0:
        return MachineError(
            "no GPU is visible to torch", hint="use `--device cpu`", code="machine.no_gpu"
        )
    there = "0" if count == 1 else f"0 to {count - 1}"
    return MachineError(
        f"GPU {index} does not exist, this machine has {there}", code="machine.no_device"
    )
