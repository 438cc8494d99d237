"""docs/data.md does what it says: its files are written, its commands run, its output compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_snippet_runs(tmp_path: Path) -> None:
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    for _, name, content in blocks:
        if name:
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, encoding="utf-8")
            path.chmod(0o600)
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    output, ran = "", 0
    for kind, name, content in blocks:
        if name:
            continue
        if kind == "text":
            assert output == content
        else:
            command = {"sh": ["bash", "-c"], "python": [sys.executable, "-c"]}
            done = subprocess.run(
                [*command[kind], content],
                cwd=tmp_path,
                env={**os.environ, "PATH": search, "COLUMNS": "200"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            output = done.stdout
            ran += 1
    assert ran >= 7
