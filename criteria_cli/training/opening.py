"""Devices by their names."""

from __future__ import annotations

import re

import torch

from criteria_cli.errors import UsageError
from criteria_cli.training.cuda import CudaDevice
from criteria_cli.training.devices import CpuDevice, Device
from criteria_cli.training.visible import torch_has_gpu_support


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
