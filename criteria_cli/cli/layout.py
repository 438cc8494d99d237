"""Lines and tables that fit: columns fall away by rank in a narrow terminal, none does in a pipe.

A screen is a list of lines, a line a list of spans. What a screen says is decided before it is
known where it goes; colour and width are added here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

Style = str
"""`good`, `bad`, `warn`, `dim`, `strong` or empty. Never the only carrier of a meaning."""

_CODES = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "strong": "1"}

GAP = "  "
_TIED = "\u00a0"
"""A space at which no line is broken."""
SHRUNK = 16
"""Characters that a column of long texts keeps at least."""


@dataclass(frozen=True)
class Span:
    """A piece of a line in one style."""

    text: str
    style: Style = ""


@dataclass(frozen=True)
class Line:
    """Spans side by side."""

    spans: tuple[Span, ...] = ()

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)

    def fitted(self, width: int | None) -> Line:
        """Cut to a width, marking the cut."""
        if width is None or len(self.text) <= width:
            return self
        left = max(0, width - 3)
        kept: list[Span] = []
        for span in self.spans:
            piece = span.text[:left]
            left -= len(piece)
            if piece:
                kept.append(Span(piece, span.style))
        return Line((*kept, Span("..."[:width])))

    def painted(self) -> str:
        """With ANSI colours."""
        return "".join(
            f"\x1b[{_CODES[span.style]}m{span.text}\x1b[0m" if span.style else span.text
            for span in self.spans
        )


def line(*parts: str | Span) -> Line:
    """A line of spans and plain text."""
    return Line(tuple(part if isinstance(part, Span) else Span(part) for part in parts))


def sides(left: Line, right: Line, width: int | None) -> Line:
    """One part on the left, one on the right; in a pipe two spaces apart."""
    space = 2 if width is None else max(2, width - len(left.text) - len(right.text))
    return Line((*left.spans, Span(" " * space), *right.spans)).fitted(width)


@dataclass(frozen=True)
class Column:
    """How a column of a table is shown."""

    title: str
    right: bool = False
    rank: int = 0
    """Columns of the highest rank fall away first; rank 0 never does."""
    shrink: bool = False
    """Its texts may be cut."""


Cell = str | Span
Row = Sequence[Cell]


def table(columns: Sequence[Column], rows: Sequence[Row], width: int | None) -> list[Line]:
    """A head and rows, two spaces between columns."""
    kept = list(range(len(columns)))
    widths = [
        max([len(column.title), *(len(_text(row[index])) for row in rows)])
        for index, column in enumerate(columns)
    ]
    if width is not None:
        # a column that may shrink keeps its place as long as its beginning fits
        least = [
            min(size, SHRUNK) if column.shrink else size
            for column, size in zip(columns, widths, strict=True)
        ]
        while _total(least, kept) > width:
            droppable = [index for index in kept if columns[index].rank > 0]
            if not droppable:
                break
            kept.remove(max(droppable, key=lambda index: (columns[index].rank, index)))
        _shrink(columns, widths, kept, width)
    head = [Span(column.title, "dim") for column in columns]
    return [_row(columns, widths, kept, row).fitted(width) for row in (head, *rows)]


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[index] for index in kept) + len(GAP) * (len(kept) - 1)


def _shrink(columns: Sequence[Column], widths: list[int], kept: Sequence[int], width: int) -> None:
    for index in kept:
        excess = _total(widths, kept) - width
        if excess > 0 and columns[index].shrink:
            widths[index] = max(min(SHRUNK, widths[index]), widths[index] - excess)


def _row(columns: Sequence[Column], widths: Sequence[int], kept: Sequence[int], row: Row) -> Line:
    spans: list[Span] = []
    for place, index in enumerate(kept):
        cell = row[index]
        style = cell.style if isinstance(cell, Span) else ""
        text = _text(cell)
        if len(text) > widths[index]:
            text = f"{text[: widths[index] - 3]}..."
        last = place == len(kept) - 1
        padding = " " * (widths[index] - len(text))
        if columns[index].right:
            spans.append(Span(padding))
        spans.append(Span(text, style))
        if not columns[index].right and not last:
            spans.append(Span(padding))
        if not last:
            spans.append(Span(GAP))
    return Line(tuple(span for span in spans if span.text))


def _text(cell: str | Span) -> str:
    return cell.text if isinstance(cell, Span) else cell


def wrapped(text: str, width: int | None, indent: str = "", hang: str = "") -> list[Line]:
    """Words broken into lines of a width, those after the first with `hang` before them; one line
    in a pipe. Spaces between words that stay on a line are kept as they are.
    """
    if width is None:
        return [line(f"{indent}{text}".replace(_TIED, " "))]
    lines: list[str] = []
    current = indent
    fresh = True
    for word in re.findall(r" *[^ ]+", text):
        if not fresh and len(current) + len(word) > width:
            lines.append(current)
            current, fresh = f"{indent}{hang}", True
        current += word.lstrip(" ") if fresh and lines else word
        fresh = False
    return [line(item.replace(_TIED, " ")).fitted(width) for item in (*lines, current)]


def listed(
    parts: Iterable[str], width: int | None, head: str = "", indent: str = "", hang: str = ""
) -> list[Line]:
    """Parts with commas between them, as `wrapped`, and none of them broken."""
    whole = ", ".join(part.replace(" ", _TIED) for part in parts)
    return wrapped(f"{head}{whole}", width, indent, hang)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at this stream and the cursor can move there."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def width_of(stream: TextIO) -> int | None:
    """Columns of the terminal behind a stream; None in a pipe, where nothing is cut."""
    if not stream.isatty():
        return None
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        columns = 0
    return max(20, columns or 80)


def height_of(stream: TextIO) -> int:
    """Rows of the terminal behind a stream."""
    try:
        return os.get_terminal_size(stream.fileno()).lines or 24
    except OSError:
        return 24


def colours(stream: TextIO) -> bool:
    """Whether colours are wanted there."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def show(lines: Iterable[Line], stream: TextIO | None = None) -> None:
    """Print lines, cut to the terminal's width where there is one."""
    stream = stream or sys.stdout
    width, painted = width_of(stream), colours(stream)
    for item in lines:
        fitted = item.fitted(width)
        stream.write(f"{fitted.painted() if painted else fitted.text}".rstrip(" ") + "\n")
    stream.flush()
