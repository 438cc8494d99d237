"""Files that are whole or not there, tensors above all, and the digests that say so."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from criteria_cli.errors import MachineError
from criteria_cli.study.durable import PARTIAL, put_in_place


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, through: Path | None = None) -> str:
    """Put tensors in place of `path`, as safetensors; their file's sha256.

    Args:
        through: the folder to write them in before they are renamed, as `write_json` has it.
    """
    partial = (through or path.parent) / (path.name + PARTIAL)
    os.close(create_private(partial))
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, partial)
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    put_in_place(partial, path)
    return digest


def create_private(path: Path) -> int:
    """Open a new file that its owner alone can read, in place of what has its name.

    A link of that name, planted in a folder that others can write, goes; its target stays as it is.

    Returns:
        The descriptor, for reading and writing.

    Raises:
        OSError: it cannot be made; a folder has the name, say.
    """
    path.unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)


def refuse_in_the_way(path: Path) -> None:
    """Look before hours of work whether a file can come to its place.

    Raises:
        MachineError: a folder stands there, or something else where its own folder should be.
    """
    folder = path.parent
    if os.path.lexists(folder) and not folder.is_dir():
        path, found, expected = folder, "is no folder", "a folder"
    elif path.is_dir():
        found, expected = "is a folder", "a file"
    else:
        return
    raise MachineError(
        f"`{path.parent.name}/{path.name}` {found}, criteria keeps {expected} there",
        hint="remove or rename it and run the same command again",
        code="machine.in_the_way",
    )


def sha256_of(path: Path) -> str:
    """The digest of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
