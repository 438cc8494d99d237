"""How much of this machine's memory a process may take (Linux; elsewhere torch is not asked).

A container's limit counts before the machine's size: control groups of both versions are read from
the process's own group up to the root, and the tightest one holds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_NO_LIMIT = 2**60
"""Version 1 writes a page-aligned huge number for `no limit`."""


@dataclass(frozen=True)
class HostMemory:
    """What a process may hold, and which rule says so."""

    total_bytes: int
    free_bytes: int
    source: str
    """`control group` or `machine`."""


def memory_limit(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> HostMemory:
    """The tightest of the control groups above this process and the machine itself."""
    machine = _meminfo(proc / "meminfo")
    tightest = machine
    for group in _groups(proc / "self" / "cgroup", groups):
        found = _group_memory(group)
        if found is None or found.total_bytes >= machine.total_bytes:
            continue
        if found.free_bytes <= tightest.free_bytes:
            tightest = found
    return tightest


def reset_resident_peak() -> None:
    """Start a new resident peak, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # an older kernel or a hardened container: the peak covers the whole life


def resident_peak() -> int:
    """The most bytes this process had resident, 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _meminfo(path: Path) -> HostMemory:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return HostMemory(total, total, "machine")
    values = {
        name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":") for line in lines)
    }
    total = values["MemTotal"]
    return HostMemory(total, values.get("MemAvailable", values.get("MemFree", total)), "machine")


def _groups(membership: Path, root: Path) -> list[Path]:
    """Folders of the memory groups this process is in, own first, up to the root."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts = [root, root / "unified"]
        elif "memory" in controllers.split(","):
            mounts = [root / "memory", root / controllers]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for mount in mounts:
            # inside a container the path may not exist, but the mount's own top then is the group
            folders += [mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return folders


def _group_memory(folder: Path) -> HostMemory | None:
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        total = _number(folder / limit)
        if total is None or total >= _NO_LIMIT:
            continue
        used = _number(folder / usage) or 0
        # pages of files that the kernel would drop before refusing memory are as good as free
        used = max(0, used - _inactive_file(folder / "memory.stat"))
        return HostMemory(total, max(0, total - used), "control group")
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None  # absent, or the word `max`


def _inactive_file(path: Path) -> int:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    values = dict(line.split(maxsplit=1) for line in lines)
    return int(values.get("total_inactive_file", values.get("inactive_file", 0)))
