"""Find the best fine-tuned cross-encoder for one question: does this post show this criterion?

The public names below are loaded when they are first used, and with them what they need.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Predictor": "criteria_cli.training.predict",
    "calculate_gradient_accumulation": "criteria_cli.training.batches",
    "get_gpu_vram_info": "criteria_cli.training.vram",
    "load_study": "criteria_cli.api",
    "probe_max_batch_size": "criteria_cli.training.vram",
    "train": "criteria_cli.api",
}
"""Where each public name lives; `__init__.pyi` says the same to type checkers."""


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
