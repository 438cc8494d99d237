"""Pictures of the screens for the documentation, taken from a real study: needs tmux.

    python benchmarks/pictures.py [--study demo] [--trials N] [--columns 100]

Runs `criteria hpo STUDY` in a terminal of its own in a temporary folder, takes the screen in the
middle of the search, then `criteria status`, and writes `docs/hpo.svg` and `docs/status.svg`.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).resolve().parents[1] / "docs"
CRITERIA = Path(sys.executable).with_name("criteria")


class Terminal:
    """A tmux session that runs one command."""

    def __init__(self, command: str, folder: Path, columns: int, rows: int) -> None:
        self.columns = columns
        self.name = f"criteria-{id(self)}"
        self._tmux(
            "-f", "/dev/null", "new-session", "-d", "-s", "v", "-x", str(columns), "-y", str(rows),
            "-c", str(folder), f"TERM=screen-256color {command}; sleep 1000",
        )  # fmt: skip

    def _tmux(self, *arguments: str) -> str:
        return subprocess.run(
            ["tmux", "-L", self.name, *arguments], check=True, capture_output=True, text=True
        ).stdout

    def screen(self, *, colours: bool = False) -> str:
        return self._tmux("capture-pane", "-p", *(["-e"] if colours else []), "-t", "v")

    def until(self, pattern: str, seconds: float) -> None:
        """Wait until the screen shows something."""
        began = time.monotonic()
        while not re.search(pattern, self.screen()):
            if time.monotonic() - began > seconds:
                sys.exit(f"`{pattern}` was not shown in {seconds:.0f} s:\n{self.screen()}")
            time.sleep(1)

    def end(self) -> None:
        self._tmux("kill-session", "-t", "v")


def write_svg(ansi: str, path: Path, title: str, columns: int) -> None:
    """A picture of a screen, without a font from the network."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    for line in ansi.rstrip().splitlines():
        console.print(Text.from_ansi(line), no_wrap=True, overflow="crop", crop=True)
    svg = console.export_svg(title=title, font_aspect_ratio=0.602)
    svg = re.sub(r"@font-face\s*{.*?}", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono")
    svg = "\n".join(line.rstrip() for line in svg.splitlines())
    path.write_text(svg + "\n", encoding="utf-8")
    print(path.relative_to(DOCS.parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--wait", type=float, default=3000, help="seconds for the whole search")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        search = f"{CRITERIA} hpo {options.study} --trials {options.trials} --workers 2"
        terminal = Terminal(search, folder, options.columns, 30)
        half = options.trials * 2 // 3
        terminal.until(rf"\] (?:{'|'.join(map(str, range(half, options.trials)))})/", options.wait)
        write_svg(
            terminal.screen(colours=True), DOCS / "hpo.svg", "criteria hpo demo", options.columns
        )
        look = Terminal(f"{CRITERIA} status {options.study}", folder / ".", options.columns, 40)
        look.until("TRIALS", 60)
        write_svg(
            look.screen(colours=True), DOCS / "status.svg", "criteria status demo", options.columns
        )
        look.end()
        terminal.end()


if __name__ == "__main__":
    main()
