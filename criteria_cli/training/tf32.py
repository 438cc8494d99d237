"""Whether a card may round float32 products to TF32, set and read back.

What autocast leaves in float32 may, what a study asks to have in fp32 may not.
"""

from __future__ import annotations

import logging

import torch

from criteria_cli.training.devices import Kind, Precision

_log = logging.getLogger(__name__)


def settle_tf32(kind: Kind, name: str, precision: Precision) -> bool:
    """Allow TF32 on a card unless `precision` is fp32, and log what is in effect afterwards.

    Returns:
        What torch says, not what it was told; always False for other devices.
    """
    if kind != "cuda":
        return False
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    effective: bool = torch.backends.cuda.matmul.allow_tf32
    _log.info("%s computes in %s, TF32 is %s", name, precision, "on" if effective else "off")
    return effective
