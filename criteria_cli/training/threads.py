"""CPU threads and the C allocator of a process that trains.

Two trainers whose threads together outnumber the cores wait for each other at every barrier: on
two cores, two trainers of two threads take four times as long as two of one. And glibc hands large
blocks back to the kernel as soon as they are freed, so that a training step faults the same pages
in again: half of a naive loop's time. Both are settled here, for a process about to be started
(`environment`) and for the one that runs (`settle`).

Imports no torch until it is asked to.
"""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path

KEPT_BYTES = 2**35
"""Free memory at the end of the heap that glibc keeps; in effect, all of it."""
GROWTH_BYTES = 2**26
"""What the heap grows by at once."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGEST_INT = 2**31 - 1


def cores() -> int:
    """Cores that this process may use: its affinity, or less where a cgroup grants less."""
    allowed = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def share(trainers: int) -> int:
    """Threads for each of `trainers` processes on this machine, at least 1, and no more than
    OMP_NUM_THREADS where that is set."""
    return max(1, min(wanted(), cores() // max(1, trainers)))


def wanted() -> int:
    """Threads of a process that computes: OMP_NUM_THREADS, else the cores it may use."""
    count = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(count)) if count.isdecimal() else cores()


def environment(threads: int) -> dict[str, str]:
    """Variables for a trainer that is about to be started.

    They must stand before the process starts: glibc and the OpenMP library read theirs at load.
    """
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "RAYON_NUM_THREADS": count,  # tokenizers
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
        "MALLOC_TOP_PAD_": str(GROWTH_BYTES),
    }


def settle(threads: int) -> None:
    """Set this process's torch threads and keep freed memory.

    For processes that were not started with `environment`. On a C library other than glibc the
    allocator stays as it is.
    """
    import torch

    torch.set_num_threads(threads)
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
    mallopt(_M_TOP_PAD, GROWTH_BYTES)


def _cgroup_quota() -> float | None:
    """Cores granted by the cgroup of this process or one above it; None without a limit."""
    granted = [_granted(folder / "cpu.max") for folder in _cgroup_folders()]
    return min((cores for cores in granted if cores is not None), default=None)


def _cgroup_folders() -> list[Path]:
    """Folders of this process's version 2 cgroup, its own first."""
    root = Path("/sys/fs/cgroup")
    try:
        entries = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((entry[3:] for entry in entries if entry.startswith("0::")), "/")
    folder = root / own.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def _granted(file: Path) -> float | None:
    try:
        quota, period = file.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)
