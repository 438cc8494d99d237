"""Pictures of the screens, and the log of the same search in a pipe, from one real study.

    python benchmarks/pictures.py [--study demo] [--trials 10] [--wait 3000]

Needs tmux; the picture of the report needs chromium and is left out, with a word, where there is
none. In a temporary folder two workers share a study: one draws in a terminal of 80 columns that
becomes one of 120, the other writes to a pipe. In the middle of the search the screens of `hpo` and
`status` are taken, at the end those of `probe-vram` and the report, all into `docs/pictures/`. What
the pipe received is counted into `results/log.json`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).resolve().parent
PICTURES = HERE.parent / "docs" / "pictures"
CRITERIA = Path(sys.executable).with_name("criteria")
WIDTHS = (80, 120)
ROWS = 40
REPORT = (1000, 1460)
"""Columns and rows of the page that are shown, in pixels."""
BROWSER = (
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--virtual-time-budget=5000",
)  # fmt: skip


class Terminal:
    """A tmux session that runs one command."""

    def __init__(self, command: str, folder: Path, columns: int) -> None:
        self.name = f"criteria-{os.getpid()}-{id(self)}"
        self._tmux(
            "-f", "/dev/null", "new-session", "-d", "-s", "v", "-x", str(columns), "-y", str(ROWS),
            "-c", str(folder), f"TERM=screen-256color {command}; sleep 100000",
        )  # fmt: skip

    def _tmux(self, *arguments: str) -> str:
        return subprocess.run(
            ["tmux", "-L", self.name, *arguments], check=True, capture_output=True, text=True
        ).stdout

    def screen(self, *, colours: bool = False) -> str:
        return self._tmux("capture-pane", "-p", *(["-e"] if colours else []), "-t", "v")

    def resize(self, columns: int) -> None:
        self._tmux("resize-window", "-t", "v", "-x", str(columns), "-y", str(ROWS))

    def until(self, shows: Callable[[str], Any], what: str, seconds: float) -> None:
        """Wait until the screen shows something."""
        began = time.monotonic()
        while not shows(self.screen()):
            if time.monotonic() - began > seconds:
                sys.exit(f"{what} was not shown in {seconds:.0f} s:\n{self.screen()}")
            time.sleep(0.2)

    def end(self) -> None:
        self._tmux("kill-session", "-t", "v")


def write_svg(ansi: str, path: Path, title: str, columns: int) -> None:
    """A picture of a screen, without a font from the network."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    # decoded whole: tmux names a colour again only where it changes
    for line in Text.from_ansi(ansi.rstrip()).split("\n"):
        console.print(line, no_wrap=True, overflow="crop", crop=True)
    svg = console.export_svg(title=title, font_aspect_ratio=0.602)
    svg = re.sub(r"@font-face\s*{.*?}", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono")
    svg = "\n".join(line.rstrip() for line in svg.splitlines())
    path.write_text(svg + "\n", encoding="utf-8")
    print(path.relative_to(HERE.parent))


def take_search(terminal: Terminal, trials: int, wait: float) -> None:
    """The live screen at both widths, once two thirds of the trials are over."""

    def far_enough(screen: str) -> bool:
        done = re.search(r"\] (\d+)/", screen)
        busy = re.search(r"\[#[-#]+\] +\d+%  f1 0", screen)
        return bool(done and int(done[1]) >= trials * 2 // 3 and busy)

    terminal.until(far_enough, "two thirds of the trials", wait)
    for columns in WIDTHS:
        terminal.resize(columns)
        # a frame of this width has its clock in the last column but one
        edge = re.compile(rf"^criteria hpo.{{{columns - 14}}}\d$", re.MULTILINE)
        terminal.until(edge.search, f"a frame of {columns} columns", 60)
        terminal.until(far_enough, "a trial at work", 120)
        picture = PICTURES / f"hpo-{columns}.svg"
        shown = terminal.screen(colours=True)
        frame = shown[shown.index("criteria hpo") :]  # without what was printed before it
        write_svg(frame, picture, "criteria hpo demo", columns)


def take_answer(command: str, shows: str, folder: Path, name: str) -> None:
    """What a command prints, at both widths."""
    for columns in WIDTHS:
        terminal = Terminal(f"{CRITERIA} {command}", folder, columns)
        terminal.until(lambda screen: re.search(shows, screen), shows, 120)
        time.sleep(0.5)  # the rest of the same write
        picture = PICTURES / f"{name}-{columns}.svg"
        write_svg(terminal.screen(colours=True), picture, f"criteria {command}", columns)
        terminal.end()


def take_report(study: str, folder: Path) -> None:
    """The top of the page in a browser."""
    subprocess.run([CRITERIA, "report", study], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    if shutil.which(BROWSER[0]) is None:
        print("no chromium here: no picture of the report")
        return
    shot, page = folder / "report.png", folder / "runs" / study / "report.html"
    size = ",".join(map(str, REPORT))
    flags = [f"--user-data-dir={folder / 'browser'}", f"--window-size={size}"]
    subprocess.run(
        [*BROWSER, *flags, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True
    )
    small = Image.open(shot).convert("RGB").quantize(64)
    small.save(PICTURES / "report.png", optimize=True)
    print("docs/pictures/report.png")


def counted(log: bytes, seconds: float, trials: int) -> dict[str, Any]:
    """What a search wrote into a pipe."""
    lines = log.decode().splitlines()
    events = [line for line in lines if re.match(r"\d{4}-\d\d-\d\dT", line)]
    return {
        "trials_of_the_study": trials,
        "seconds": round(seconds),
        "bytes": len(log),
        "lines": len(lines),
        "event_lines": len(events),
        "progress_lines": sum(" step=" in line for line in events),
        "trials_of_this_worker": sum(" start " in line for line in events),
        "longest_line": max(map(len, lines)),
        "carriage_returns": log.count(b"\r"),
        "escape_bytes": log.count(b"\x1b"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--wait", type=float, default=3000, help="seconds for the whole search")
    options = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    study, trials = options.study, options.trials
    search = [str(CRITERIA), "hpo", study, "--trials", str(trials)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        terminal = Terminal(" ".join(search), folder, WIDTHS[0])
        began = time.monotonic()
        with (folder / "log").open("wb") as log:
            piped = subprocess.Popen(search, cwd=folder, stderr=log, stdin=subprocess.DEVNULL)
        try:
            take_search(terminal, trials, options.wait)
            take_answer(f"status {study}", r"(?m)^! |^RESUMED|^PRUNED", folder, "status")
            piped.wait(options.wait)
            found = counted((folder / "log").read_bytes(), time.monotonic() - began, trials)
        finally:
            piped.kill()
            terminal.end()
        take_answer(f"probe-vram {study}", "(?m)^time ", folder, "probe-vram")
        take_report(study, folder)
    path = HERE / "results" / "log.json"
    head = {"schema": "criteria.benchmark.log/1", "command": "benchmarks/pictures.py"}
    content = {**head, "study": study, **found}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(path.relative_to(HERE.parent), found)


if __name__ == "__main__":
    main()
