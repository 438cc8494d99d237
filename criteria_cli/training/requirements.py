"""The installed torch is new enough, told without importing it."""

from __future__ import annotations

from importlib.metadata import version

from criteria_cli.errors import MachineError

LEAST_TORCH = (2, 6)


def require_torch() -> None:
    """Raise unless torch can be used.

    Raises:
        MachineError: it is too old.
    """
    found = version("torch")
    numbers = tuple(int(part) for part in found.split("+")[0].split(".")[:2] if part.isdecimal())
    if numbers < LEAST_TORCH:
        least = ".".join(map(str, LEAST_TORCH))
        raise MachineError(
            f"torch {found} is too old, criteria needs {least} or newer", code="machine.torch"
        )
