"""The process that probes a device: a request on standard input, one answer on standard output."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from criteria_cli.errors import CriteriaError, MachineError
from criteria_cli.study.headroom import parse_headroom
from criteria_cli.training import kept
from criteria_cli.training.assumed import assumed_limits
from criteria_cli.training.devices import CpuDevice, Device, Precision, precision_for
from criteria_cli.training.fitting import Fit, fit_memory
from criteria_cli.training.host import memory_limit
from criteria_cli.training.keys import memory_key
from criteria_cli.training.measuring import StepMeter
from criteria_cli.training.memory import Limits, MemoryModel, cap_bytes
from criteria_cli.training.model import ScoringModel, encoder_from_config
from criteria_cli.training.opening import open_device
from criteria_cli.training.probe import REFUSED, Probed, ProbeSettings
from criteria_cli.training.replay import is_out_of_memory

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


class AllocatorRefused(Exception):
    """The card cannot grow segments."""


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request, as a JSON object."""
    settings = ProbeSettings.from_json(request)
    try:
        device = open_device(settings.device)
        if isinstance(device, CpuDevice):
            return {"probed": assumed(settings, device).to_json()}
        return {"probed": _card(settings, device, request).to_json()}
    except AllocatorRefused:
        return {"refused": REFUSED}
    except CriteriaError as error:
        kind = "UsageError" if error.code.startswith("model.") else type(error).__name__
        return {
            "error": {
                "class": kind,
                "message": error.message,
                "hint": error.hint,
                "code": error.code,
            }
        }


def assumed(settings: ProbeSettings, device: CpuDevice) -> Probed:
    """What is assumed of a processor: its memory is not measured, for running out would kill."""
    started = time.monotonic()
    model, training = settings.model, settings.training
    module = encoder_from_config(model).module
    memory = memory_limit()
    limits = assumed_limits(
        module.config,
        sum(parameter.numel() for parameter in module.parameters()),
        model.max_length,
        total_bytes=memory.total_bytes,
        free_bytes=memory.free_bytes,
        headroom=training.vram_headroom,
    )
    return Probed(
        device="cpu",
        name=device.name,
        kind=device.kind,
        identity=device.identity,
        total_bytes=memory.total_bytes,
        available_bytes=memory.free_bytes,
        used_bytes=memory.total_bytes - memory.free_bytes,
        cap_bytes=limits.cap,
        headroom_bytes=parse_headroom(training.vram_headroom).of(memory.total_bytes),
        precision=precision_for(device, training.precision),
        key=None,
        cached=False,
        elapsed_s=time.monotonic() - started,
        train_rows=limits.max_rows(model.max_length),
        evaluate_rows=limits.evaluate.max_rows(model.max_length),
        steps=0,
        further_steps=0,
        ooms=0,
        verified=False,
        contended=False,
        memory=limits.model,
        source=memory.source,
    )


def _card(settings: ProbeSettings, device: Device, request: Mapping[str, Any]) -> Probed:
    started = time.monotonic()
    precision = precision_for(device, settings.training.precision)
    key = memory_key(device, settings.model, settings.training, precision)
    known = request["known"]
    model = None if request["refresh"] else kept.load(key, known)
    if model is not None:
        return _from_known(settings, device, precision, key, model, started)
    with kept.only_probe_of(device.identity):
        # whoever held the lock may have measured the same
        model = None if request["refresh"] else kept.load(key, known)
        if model is not None:
            return _from_known(settings, device, precision, key, model, started)
        probed = _measured(settings, device, precision, key, started)
        if not probed.contended:
            kept.save(key, probed.memory)
        return probed


def _from_known(
    settings: ProbeSettings,
    device: Device,
    precision: Precision,
    key: str,
    model: MemoryModel,
    started: float,
) -> Probed:
    device.synchronize()  # the driver's own part is taken before free memory is asked for
    available = device.free_bytes() + device.reserved_bytes()
    headroom = parse_headroom(settings.training.vram_headroom).of(device.total_bytes())
    cap = cap_bytes(available, 0, headroom)
    limits = Limits.under(model, cap)
    return Probed(
        **_facts(device, available, cap, headroom, precision),
        key=key,
        cached=True,
        elapsed_s=time.monotonic() - started,
        train_rows=limits.max_rows(model.max_length),
        evaluate_rows=limits.evaluate.max_rows(model.max_length),
        steps=0,
        further_steps=0,
        ooms=0,
        verified=0 < model.verified_cap <= cap,
        contended=False,
        memory=model,
    )


def _measured(
    settings: ProbeSettings, device: Device, precision: Precision, key: str, started: float
) -> Probed:
    headroom = parse_headroom(settings.training.vram_headroom).of(device.total_bytes())

    def current_cap() -> int:
        return cap_bytes(device.free_bytes(), device.reserved_bytes(), headroom)

    scoring = encoder_from_config(settings.model)
    with device.use():
        _warm_up(device)
        available = device.free_bytes() + device.reserved_bytes()
        meter = _meter(scoring, settings, device, precision)
        fit: Fit = fit_memory(
            meter, settings.model.max_length, current_cap, allocator=device.allocator
        )
    return Probed(
        **_facts(device, available, fit.cap, headroom, precision),
        key=key,
        cached=False,
        elapsed_s=time.monotonic() - started,
        train_rows=fit.train_rows,
        evaluate_rows=fit.evaluate_rows,
        steps=fit.steps,
        further_steps=fit.further_steps,
        ooms=fit.ooms,
        verified=fit.verified,
        contended=fit.contended,
        memory=fit.model,
    )


def _facts(
    device: Device, available: int, cap: int, headroom: int, precision: Precision
) -> dict[str, Any]:
    return {
        "device": device.spelled,
        "name": device.name,
        "kind": device.kind,
        "identity": device.identity,
        "total_bytes": device.total_bytes(),
        "available_bytes": available,
        "used_bytes": max(0, device.total_bytes() - available),
        "cap_bytes": cap,
        "headroom_bytes": headroom,
        "precision": precision,
    }


def _meter(
    scoring: ScoringModel, settings: ProbeSettings, device: Device, precision: Precision
) -> StepMeter:
    vocabulary = int(getattr(scoring.module.config, "vocab_size", 2))
    meter = None
    try:
        meter = StepMeter(
            scoring,
            device,
            precision,
            settings.model,
            settings.training,
            min(vocabulary, settings.vocabulary or vocabulary),
        )
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    if meter is None:
        raise MachineError(
            f"the weights of model `{settings.model.name}` and its optimiser do not fit in "
            f"{device.free_bytes() / 2**30:.1f} GiB of {device.name}",
            hint="use a smaller model or a device with more memory",
            code="machine.memory",
        )
    return meter


def _warm_up(device: Device) -> None:
    """Make the driver take its part: a matrix product, forward and backward."""
    try:
        square = torch.ones(256, 256, device=device.torch_device, requires_grad=True)
        (square @ square).sum().backward()
        device.synchronize()
        del square
        device.empty_cache()  # no block of this size is to lie between the model's
    except RuntimeError as error:
        if device.kind == "cuda" and device.allocator == "expandable":
            raise AllocatorRefused from error
        raise


def main() -> None:
    """Answer one request. Standard output is kept for it: libraries print to standard error."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    json.dump(answer(json.load(sys.stdin)), out, allow_nan=False)
    out.close()


if __name__ == "__main__":
    main()
