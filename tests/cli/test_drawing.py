"""A drawing in a real terminal: what stands on it after a redraw, a new size, the end."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import termios
from collections.abc import Iterator
from typing import TextIO

import pytest

from criteria_cli.cli.drawing import Block
from criteria_cli.cli.layout import Span, line

PIECES = re.compile(r"\x1b\[(\??\d*)([A-Za-z])|([^\x1b])")


class Terminal:
    """The screen behind a pseudo-terminal, as one with a memory of whole lines keeps it."""

    def __init__(self, columns: int, rows: int) -> None:
        self.master, slave = os.openpty()
        os.set_blocking(self.master, False)
        self.stream: TextIO = os.fdopen(slave, "w")
        self.rows: list[str] = ["$ criteria hpo demo", ""]
        self.row = self.column = 1
        self.column = 0
        self.resize(columns, rows)

    def resize(self, columns: int, rows: int) -> None:
        """Lines that are too long are broken, as most terminals do."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.columns = columns
        broken: list[str] = []
        for number, text in enumerate(self.rows):
            if number == self.row:
                self.row = len(broken)
            broken += [text[at : at + columns] for at in range(0, max(1, len(text)), columns)]
        self.rows = broken

    def screen(self) -> list[str]:
        """Read what was written and show the lines down to the cursor."""
        self.stream.flush()
        try:
            written = os.read(self.master, 1 << 20).decode()
        except BlockingIOError:
            written = ""
        for number, command, character in PIECES.findall(written):
            if command == "A":
                self.row = max(0, self.row - int(number))
            elif command == "K":
                self.rows[self.row] = self.rows[self.row][: self.column]
            elif command == "J":
                del self.rows[self.row + 1 :]
                self.rows[self.row] = self.rows[self.row][: self.column]
            elif character == "\r":
                self.column = 0
            elif character == "\n":
                self.row += 1
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif character:
                text = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = text[: self.column] + character + text[self.column + 1 :]
                self.column += 1
                assert self.column < self.columns, "the terminal would break this line"
        return self.rows[: self.row + 1]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    found = Terminal(80, 24)
    yield found
    found.stream.close()
    os.close(found.master)


def test_a_drawing_takes_the_place_of_the_last(terminal: Terminal) -> None:
    block = Block(terminal.stream)
    block.draw([line("one long line"), line("two"), line("three")])
    assert terminal.screen() == ["$ criteria hpo demo", "one long line", "two", "three", ""]
    block.draw([line("short"), line("deux")])
    assert terminal.screen() == ["$ criteria hpo demo", "short", "deux", ""]
    block.erase()
    block.erase()
    assert terminal.screen() == ["$ criteria hpo demo", ""]


def test_what_a_key_wrote_below_it_goes_away(terminal: Terminal) -> None:
    block = Block(terminal.stream)
    block.draw([line("one")])
    terminal.stream.write("^C")
    block.draw([line("two")])
    assert terminal.screen() == ["$ criteria hpo demo", "two", ""]


@pytest.mark.parametrize("columns", [79, 60, 33, 120])
def test_a_window_of_another_size_leaves_nothing_behind(terminal: Terminal, columns: int) -> None:
    block = Block(terminal.stream)
    block.draw([line("x" * 100), line(), line("y" * 50, Span("z" * 20, "bad"))])
    before = terminal.screen()
    assert before[1] == "x" * 76 + "..."
    terminal.resize(columns, 24)
    block.draw([line("x" * 100), line("last")])
    shown = "x" * min(100, columns - 4) + ("..." if columns < 104 else "")
    assert terminal.screen() == ["$ criteria hpo demo", shown, "last", ""]


def test_a_low_window_says_what_it_does_not_show(terminal: Terminal) -> None:
    terminal.resize(80, 5)
    Block(terminal.stream).draw([line(str(number)) for number in range(9)])
    assert terminal.screen()[1:] == [
        "0", "1", "2", "... 6 more lines, the window is too low", "",
    ]  # fmt: skip


def test_a_low_window_keeps_the_ending_that_it_is_told_of(terminal: Terminal) -> None:
    terminal.resize(80, 7)
    Block(terminal.stream).draw([line(str(number)) for number in range(9)], ending=9)
    assert terminal.screen()[1:] == [
        "0", "1", "2", "... 4 more lines, the window is too low", "7", "8", "",
    ]  # fmt: skip
