"""A block of lines that is drawn anew in place, below whatever the terminal shows already."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TextIO

from criteria_cli.cli.layout import Line, colours, height_of, line, width_of

_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_REST_OF_LINE, _REST_OF_SCREEN = "\x1b[K", "\x1b[J"


class Block:
    """Lines of which the last drawing is replaced by the next.

    Old lines are written over and not wiped first, so nothing flickers. Nothing is remembered in
    the terminal: one that is closed, killed or resized needs no repair.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn: list[int] = []
        """Characters of each line of the last drawing."""

    @property
    def width(self) -> int:
        """Columns that a line may fill; the last stays free, where a cursor would wrap."""
        return (width_of(self._stream) or 80) - 1

    @property
    def height(self) -> int:
        """Lines that a drawing may have; the cursor stands below them."""
        return height_of(self._stream) - 1

    def draw(self, lines: Sequence[Line], *, ending: int = 0) -> None:
        """Replace the last drawing; what the window cannot hold is counted.

        Args:
            ending: so many of the last lines stay where lines are left out, as far as they take no
                more than a third of the window.
        """
        width, height, painted = self.width, max(1, self.height), colours(self._stream)
        if len(lines) > height:
            last = min(ending, height // 3)
            more = line(f"... {len(lines) - height + 1} more lines, the window is too low")
            lines = [*lines[: height - 1 - last], more, *lines[len(lines) - last :]]
        fitted = [item.fitted(width) for item in lines]
        texts = [item.painted() if painted else item.text for item in fitted]
        body = "".join(f"{text}{_REST_OF_LINE}\r\n" for text in texts)
        self._write(f"{_HIDE}{self._back()}{body}{_REST_OF_SCREEN}{_SHOW}")
        self._drawn = [len(item.text) for item in fitted]

    def erase(self) -> None:
        """Take the last drawing away."""
        if self._drawn:
            self._write(f"{self._back()}{_REST_OF_SCREEN}")
            self._drawn = []

    def _back(self) -> str:
        """To where the last drawing began; a window that became narrower broke its lines."""
        columns = self.width + 1
        rows = sum(max(1, math.ceil(length / columns)) for length in self._drawn)
        return f"\r\x1b[{rows}A" if rows else "\r"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
