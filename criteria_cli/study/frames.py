"""Where an error was, without whose machine it was on: no home path, no line of source, no values.

For `--debug` and for a study's log.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from criteria_cli.errors import CriteriaError

_PASSWORD = re.compile(r"(?<=:)//?[^\s/:@`]*:\S*@")
"""What stands before the host of a URL that was typed in another flag's place."""


def without_password(text: str) -> str:
    """The text with `***` for user and password of every URL in it."""
    return _PASSWORD.sub("//***@", text)


def shown_module(filename: str) -> str:
    """A file without the folders that say whose machine this is."""
    parts = Path(filename).parts
    for anchor in ("site-packages", "criteria_cli"):
        if anchor in parts:
            start = parts.index(anchor) + (anchor == "site-packages")
            return "/".join(parts[start:])
    return parts[-1] if parts else filename


def bare_traceback(error: BaseException) -> str:
    """Frames and types of an error and its causes; the text of our own errors only."""
    lines: list[str] = []
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        lines.append("traceback, the innermost call last:")
        lines.extend(
            f"  {shown_module(frame.filename)}:{frame.lineno} in {frame.name}"
            for frame in traceback.extract_tb(current.__traceback__)
        )
        text = f": {without_password(str(current))}" if isinstance(current, CriteriaError) else ""
        lines.append(f"{type(current).__name__}{text}")
        current = current.__cause__ or current.__context__
        if current is not None:
            lines.append("caused by")
    return "\n".join(lines) + "\n"
