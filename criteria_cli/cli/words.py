"""Numbers and names as people read them. ASCII only."""

from __future__ import annotations

import math
import unicodedata

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def duration(seconds: float | None) -> str:
    """`4 s`, `21 m`, `3 h 10 m`, `2 d 7 h`; `-` for an unknown one."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} m"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} m"
    days, hours = divmod(hours + round(minutes / 60), 24)
    return f"{days} d {hours} h"


def clock(seconds: float) -> str:
    """`1:12:44` or `3:05`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def ago(seconds: float | None) -> str:
    """`4 s ago`."""
    return "-" if seconds is None else f"{duration(seconds)} ago"


def size(count: float | None) -> str:
    """Bytes: `512 B`, `31.2 GiB`."""
    if count is None:
        return "-"
    value, unit = float(count), 0
    while abs(value) >= 1024 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 else f"{value:.1f} {UNITS[unit]}"


def score(value: float | None) -> str:
    """Four places."""
    return "-" if value is None else f"{value:.4f}"


def number(value: object) -> str:
    """A setting or parameter, short: `1.9e-05`, `16`, `cosine`, `true`."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.3g}"
    return cleaned(str(value))


def percent(share: float | None) -> str:
    """`55%`."""
    return "-" if share is None else f"{100 * share:.0f}%"


def count(amount: int, thing: str, things: str = "") -> str:
    """`1 trial`, `2 trials`."""
    return f"{amount} {thing if amount == 1 else things or thing + 's'}"


def cleaned(text: str) -> str:
    """Text of another hand (names in a shared store) without control or direction characters."""
    return "".join(
        character
        for character in text
        if character.isprintable() and unicodedata.category(character) not in ("Cf", "Cc")
    )


def bar(share: float, width: int) -> str:
    """`[#####-----]`, `width` characters inside the brackets."""
    full = round(min(1.0, max(0.0, share)) * width)
    return f"[{'#' * full}{'-' * (width - full)}]"
