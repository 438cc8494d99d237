"""Which device a worker takes: one that no other worker of this machine holds.

A held device is a locked file in a private folder of the user; the lock goes with the process that
holds it, however it ends. CPUs are shared and never locked.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from criteria_cli.errors import MachineError, UsageError
from criteria_cli.study.file_locks import try_lock


@dataclass(frozen=True)
class Card:
    """A visible GPU."""

    device: str
    """`cuda:N`, counted among the visible ones."""
    identity: str
    """The same for every process of the machine, such as its UUID."""
    name: str


@dataclass(frozen=True)
class Held:
    """A device of our own until `release`."""

    device: str
    name: str
    descriptor: int | None

    def release(self) -> None:
        if self.descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self.descriptor)


def take_devices(
    asked: str, workers: int | Literal["auto"], cards: Sequence[Card]
) -> tuple[Held, ...]:
    """Devices for so many workers.

    Args:
        asked: `auto`, `cpu` or `cuda:N`. A device that is named is taken even if it is held.
        workers: `auto` is one per card that is free, or one on a machine without cards.
        cards: the visible ones.

    Raises:
        MachineError: no such device, or all are held by other workers.
        UsageError: a device name that is none.
    """
    if asked == "cpu" or (asked == "auto" and not cards):
        return tuple(Held("cpu", "", None) for _ in range(1 if workers == "auto" else workers))
    if asked != "auto":
        card = _named(asked, cards)
        held = _lock(card) or Held(card.device, card.name, None)
        count = 1 if workers == "auto" else workers
        return (held, *(Held(card.device, card.name, None) for _ in range(count - 1)))
    return _free(workers, cards)


def _free(workers: int | Literal["auto"], cards: Sequence[Card]) -> tuple[Held, ...]:
    taken: list[Held] = []
    for card in cards:
        if workers != "auto" and len(taken) == workers:
            break
        held = _lock(card)
        if held is not None:
            taken.append(held)
    if not taken or (workers != "auto" and len(taken) < workers):
        for held in taken:
            held.release()
        wanted = 1 if workers == "auto" else workers
        raise MachineError(
            f"{wanted} free GPU{'s' if wanted > 1 else ''} wanted, {len(taken)} of {len(cards)} "
            "are free on this machine",
            hint="other workers hold them; `--device cuda:N` shares one all the same",
            code="machine.devices_held",
        )
    return tuple(taken)


def _named(asked: str, cards: Sequence[Card]) -> Card:
    match = re.fullmatch(r"cuda(?::(\d+))?", asked)
    if match is None:
        raise UsageError(
            f"`--device` must be `auto`, `cpu` or `cuda:N`, not `{asked}`", code="usage.device"
        )
    number = int(match.group(1) or 0)
    for card in cards:
        if card.device == f"cuda:{number}":
            return card
    there = f"this machine has 0 to {len(cards) - 1}" if cards else "no GPU is visible"
    raise MachineError(f"GPU {number} does not exist, {there}", code="machine.no_device")


def _lock(card: Card) -> Held | None:
    name = re.sub(r"[^A-Za-z0-9.-]", "_", card.identity)
    descriptor = os.open(lock_folder() / f"device-{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    if not try_lock(descriptor):
        os.close(descriptor)
        return None
    return Held(card.device, card.name, descriptor)


def lock_folder() -> Path:
    """A folder of this user's on this machine, private.

    Raises:
        MachineError: somebody else made it.
    """
    folder = Path(tempfile.gettempdir()) / f"criteria-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise MachineError(
            f"`{folder.name}` in the temporary folder belongs to somebody else",
            hint="remove it, or set TMPDIR",
            code="machine.lock_folder",
        )
    return folder


@contextlib.contextmanager
def holding(devices: Sequence[Held]) -> Iterator[None]:
    """Release the devices at the end."""
    try:
        yield
    finally:
        for held in devices:
            held.release()
