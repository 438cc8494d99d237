"""What a memory model depends on, as one digest."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from criteria_cli.study.spec import ModelSpec, TrainingSpec
from criteria_cli.training import tiny
from criteria_cli.training.devices import Device, Precision
from criteria_cli.training.pretrained import open_config

STEP_MODULES = (
    "adapters.py",
    "attention.py",
    "curves.py",
    "disentangled.py",
    "fitting.py",
    "losses.py",
    "masks.py",
    "measuring.py",
    "model.py",
    "optimizer.py",
    "resident.py",
    "step.py",
)
"""Our code that decides what a step allocates, or how that is measured."""
_NAMES_ONLY = ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "torch_dtype",
               "transformers_version")  # fmt: skip
"""Fields of a model's configuration that change nothing about its size."""


def memory_key(
    device: Device, model: ModelSpec, training: TrainingSpec, precision: Precision
) -> str:
    """The key of the memory model of this step on this kind of device.

    Free memory, the headroom and the card's own UUID are not part of it: the same coefficients
    serve every card of a kind.

    Raises:
        UsageError: the model's configuration cannot be read.
    """
    content = {
        "device": _device(device),
        "versions": [str(torch.__version__), str(torch.version.cuda), version("transformers")],
        "step": _step_digest(),
        "model": _configuration(model),
        "settings": model.model_dump(mode="json", exclude={"name"}),
        "loss": training.loss,
        "frozen_layers": training.frozen_layers,
        "optimizer": "fused AdamW",
        "precision": precision,
    }
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _device(device: Device) -> list[str]:
    facts = [device.kind, device.name, str(device.total_bytes()), platform.system()]
    facts.append("wsl" if "microsoft" in platform.release().lower() else "")
    if device.kind == "cuda":
        facts.append(str(getattr(device, "capability", "")))
        driver = getattr(torch._C, "_cuda_getDriverVersion", None)  # noqa: SLF001
        facts.append(str(driver()) if driver is not None else "")
    if device.kind == "simulated":
        facts.append(device.spelled)
    return facts


def _configuration(model: ModelSpec) -> dict[str, Any]:
    if model.name == tiny.NAME:
        config: Any = tiny.tiny_config()
    else:
        config, _ = open_config(model.name)
    values: dict[str, Any] = config.to_dict()
    return {key: value for key, value in values.items() if key not in _NAMES_ONLY}


def _step_digest() -> str:
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in STEP_MODULES:
        digest.update((here / name).read_bytes())
    return digest.hexdigest()
