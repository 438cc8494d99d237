"""A command in a terminal, as a person sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path


class Terminal:
    """A command in a terminal of its own, and everything that was drawn there."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        columns: int = 80,
        rows: int = 24,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CRITERIA_", "NO_COL"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "criteria_cli", *arguments],
            cwd=folder,
            env={**kept, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **(env or {})},
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        self.drawn = ""

    def until(self, pattern: str, timeout: float = 90) -> None:
        """Read until something was drawn."""
        began = time.monotonic()
        while not re.search(pattern, self.drawn):
            assert time.monotonic() - began < timeout, self.drawn[-3000:]
            if not self.read():
                break
        assert re.search(pattern, self.drawn), self.drawn[-3000:]

    def read(self) -> bool:
        if not select.select([self.main], [], [], 1)[0]:
            return True
        try:
            piece = os.read(self.main, 65536)
        except OSError:
            return False  # the terminal is closed
        self.drawn += piece.decode()
        return bool(piece)

    def end(self) -> int:
        while self.read():
            pass
        return self.process.wait(30)

    def close(self) -> None:
        """Leave nothing running, also where a test failed in the middle."""
        self.process.kill()
        self.process.wait()
        os.close(self.main)


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
