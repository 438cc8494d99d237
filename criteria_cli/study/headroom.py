"""What is left free on a card: a share of its total, or bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB)\s*\Z")
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*\Z")
LARGEST_SHARE = 0.9


def parse_size(text: str) -> int:
    """Bytes of `2GiB`, `512 MiB` and the like.

    Raises:
        ValueError: any other form; `2 GB` is refused, for it is read in two ways.
    """
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"must be a size such as `2GiB` or `512MiB`, not `{text}`")
    return int(float(match[1]) * _UNITS[match[2]])


@dataclass(frozen=True)
class Headroom:
    """Exactly one of the two is set."""

    share: float | None = None
    size_bytes: int | None = None

    def of(self, total_bytes: int) -> int:
        """Bytes to leave free on a card of this size."""
        if self.size_bytes is not None:
            return self.size_bytes
        assert self.share is not None
        return int(self.share * total_bytes)

    def __str__(self) -> str:
        if self.share is not None:
            return f"{self.share * 100:g}%"
        return f"{(self.size_bytes or 0) / 2**30:.3g} GiB"


def parse_headroom(value: float | str) -> Headroom:
    """`0.1`, `10%` or `2GiB`.

    Raises:
        ValueError: a share outside (0, 90 %), no bytes at all, or another form.
    """
    if isinstance(value, str) and (match := _SHARE.match(value)) is not None:
        share = float(match[1]) / (100.0 if match[2] else 1.0)
    elif isinstance(value, str):
        try:
            size = parse_size(value)
        except ValueError:
            raise ValueError(
                f"must be a share such as `10%` or bytes such as `2GiB`, not `{value}`"
            ) from None
        if size == 0:
            raise ValueError("must be above 0")
        return Headroom(size_bytes=size)
    else:
        share = float(value)
    if not 0.0 < share < LARGEST_SHARE:
        raise ValueError(f"must be above 0 and below {LARGEST_SHARE:.0%}, not `{value}`")
    return Headroom(share=share)
