"""Files that are whole or not there, readable by their owner alone.

A file is written under another name, forced to the disk and renamed; a crash leaves the old file
or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

PARTIAL = ".partial"


def private_folder(path: Path) -> None:
    """Make a folder, and those above it, that only the owner can enter."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Put a JSON object in place of `path`."""
    partial = path.with_name(path.name + PARTIAL)
    content = json.dumps(value, indent=1, allow_nan=False).encode()
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    _put(partial, path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Put tensors in place of `path`, as safetensors; their file's sha256."""
    partial = path.with_name(path.name + PARTIAL)
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, partial)
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    _put(partial, path)
    return digest


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put(partial: Path, path: Path) -> None:
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)
