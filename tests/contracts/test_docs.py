"""Documentation that is wrong breaks the build: the commands of a page run, in its order."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from terminals import Terminal, without_codes
from tiny_wordnet import write_tiny_wordnet

from criteria_cli.cli.environment import VARIABLES
from criteria_cli.cli.failures import EXIT_CODES
from criteria_cli.hpo.facts import (
    BestTrial,
    PruningStatus,
    Spent,
    StudyStatus,
    TrialCounts,
    WorkerStatus,
)
from criteria_cli.study.reference import reference

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
STAND_IN = {
    "CRITERIA_TESTING": "1",
    "CRITERIA_TRAINER": str(SUPPORT / "synthetic_trainer.py"),
    "PYTHONPATH": str(SUPPORT),
}
TINY_MODEL = ["--set", 'model.name="builtin:tiny-deberta-v2"']
SEARCH = ["hpo", "pc_ce", "--data", "data/redsm5"]
GIVEN: dict[str, list[list[str]]] = {
    "clusters.md": [SEARCH, ["init", "my.toml", "--overwrite"]],
    "models.md": [[*SEARCH, "--trials", "18"]],
    "store.md": [SEARCH],
    "coming-from.md": [SEARCH],
}
"""What the reader of a page has done before."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)(#[^)]*)?\)")


def blocks(path: Path) -> list[tuple[str, str, str]]:
    return BLOCK.findall(path.read_text(encoding="utf-8"))


def commands(page: Path) -> list[list[str]]:
    """The commands of a page in the order of its reader, each once."""
    text = page.read_text(encoding="utf-8")
    found: dict[str, None] = {}
    console = re.compile(r"^```console\n(.*?)^```$|`(criteria [^`\n]+)`", re.MULTILINE | re.DOTALL)
    for block, inline in console.findall(text):
        for line in block.splitlines() if block else [inline]:
            spoken_of = inline and len(inline.split()) == 2 and inline.split()[1] not in ALONE
            if line.startswith("criteria ") and not spoken_of and not PLACEHOLDER.search(line):
                found[line] = None
    return [shlex.split(line, comments=True)[1:] for line in found]


ALONE = ("status", "doctor")
"""Commands that may stand without an argument; `criteria hpo` alone is spoken of, not called."""
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b|\.\.\.")
STORIES = [page for page in PAGES if commands(page) and page.name != "data.md"]


def run(folder: Path, arguments: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CRITERIA_")}
    return subprocess.run(
        [sys.executable, "-m", "criteria_cli", *arguments],
        cwd=folder,
        env={**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **more},
        capture_output=True,
        text=True,
        check=False,
    )


def write_data(folder: Path) -> None:
    """What the pages take as given: the ReDSM5 folder, a table of pairs, new posts."""
    data = folder / "data" / "redsm5"
    data.mkdir(parents=True)
    symptoms = ["DEPRESSED_MOOD", "ANHEDONIA", "SLEEP_ISSUES"]
    posts, notes = ["post_id,text"], ["post_id,sentence_id,sentence_text,DSM5_symptom,status"]
    for number in range(30):
        text = f"Sentence {number} of a week."
        posts.append(f"p{number},{text}")
        if number % 2:
            notes.append(f"p{number},s{number},{text},{symptoms[number % 3]},1")
    (data / "posts.csv").write_text("\n".join(posts))
    (data / "annotations.csv").write_text("\n".join(notes))
    pairs = ["chunk,text,hypothesis,entailed,contract"]
    pairs += [f"c{n},Text {n}.,B.1,{n % 2},k{n // 2}" for n in range(40)]
    (folder / "pairs.csv").write_text("\n".join(pairs))
    (folder / "posts.csv").write_text("post_id,post\nn1,I sleep badly.\nn2,It rained.\n")


@dataclass(frozen=True)
class Reader:
    """Somebody who types a page's commands one after the other in a folder of their own.

    Searches run to their end, with few trials and a trainer that plays instead of training.
    Trainings, predictions and the probe are real, with a tiny model in the place of one that would
    be fetched from the hub. What would be watched for hours is, until it has been drawn twice. The
    rest runs as it is.
    """

    folder: Path

    def types(self, arguments: list[str]) -> str:
        """Run it; what went wrong, or an empty string."""
        for stop in ("|", "&&", ">", "2>"):
            if stop in arguments:
                arguments = arguments[: arguments.index(stop)]
        command = arguments[0]
        if "--watch" in arguments:
            return self._watch(arguments)
        if command == "hpo" and "--dry-run" not in arguments:
            wanted = dict(pairwise(arguments)).get("--trials", "4")
            trials = wanted if int(wanted) < 20 else "4"
            few = ["--trials", trials, "--set", "training.epochs=2", "--device", "cpu"]
            # before the page's own settings, which win
            return self._run([*arguments[:2], *TINY_MODEL, *arguments[2:], *few], **STAND_IN)
        if command == "train":
            short = ["--set", "training.epochs=1", "--device", "cpu", "--overwrite"]
            return self._run([*arguments, *TINY_MODEL, *short])
        if command == "probe-vram":
            arguments = [*arguments, *TINY_MODEL]
        if command == "init":
            arguments = [*arguments, "--overwrite"]
        return self._run(arguments)

    def _watch(self, arguments: list[str]) -> str:
        terminal = Terminal(self.folder, *arguments)
        try:
            terminal.until("\x1b\\[\\d+A")  # up over the first screen, to draw the second
            terminal.process.send_signal(signal.SIGINT)
            code = terminal.end()
        finally:
            terminal.close()
        said = without_codes(terminal.drawn)
        clean = code == 0 and "Traceback" not in said and terminal.drawn.endswith("\x1b[?25h")
        return "" if clean else f"exit {code}: {terminal.drawn}"

    def _run(self, arguments: list[str], **more: str) -> str:
        wordnet = str(self.folder / "wordnet")
        done = run(self.folder, arguments, WNSEARCHDIR=wordnet, **more)
        kind = arguments[-1] if arguments[0] == "report" else ""
        absent = done.returncode == 3 and f"pip install 'criteria[{kind}]'" in done.stderr
        return "" if done.returncode == 0 or absent else f"exit {done.returncode}: {done.stderr}"


@pytest.mark.parametrize("page", STORIES, ids=lambda page: page.name)
def test_a_pages_commands_run_in_order(page: Path, tmp_path: Path) -> None:
    write_data(tmp_path)
    write_tiny_wordnet(tmp_path / "wordnet")
    for _, name, content in blocks(page):
        if name and name.endswith((".toml", ".json")):
            (tmp_path / name).write_text(content, encoding="utf-8")
    reader = Reader(tmp_path)
    for arguments in [*GIVEN.get(page.name, ()), *commands(page)]:
        said = reader.types(arguments)
        assert not said, f"{page.name}: criteria {shlex.join(arguments)}\n{said}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {target for target, _ in LINK.findall(index)}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - listed == {"index.md"}


def test_every_picture_is_shown_somewhere() -> None:
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    pictures = list((ROOT / "docs" / "pictures").iterdir())
    assert [path.name for path in pictures if path.name not in shown] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(/root|/home/|/work/|/tmp/h)", text)


def test_the_study_file_reference_is_made_from_the_code() -> None:
    assert (ROOT / "docs" / "study-file.md").read_text(encoding="utf-8") == reference()


def test_exit_codes_are_documented() -> None:
    text = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in text


def test_variables_are_documented_in_help() -> None:
    text = run(ROOT, ["--help"]).stdout
    assert all(name in text for name in VARIABLES)


def keys(value: object, prefix: str = "") -> set[str]:
    """Dotted keys of a document; what stands under free keys is left out."""
    found: set[str] = set()
    if isinstance(value, dict):
        for key, item in value.items():
            found.add(f"{prefix}{key}")
            if key not in ("params", "by_reason", "memory_model", "plans", "seconds"):
                found |= keys(item, f"{prefix}{key}.")
    if isinstance(value, list) and value:
        found |= keys(value[0], prefix)
    return found


def test_the_documents_shown_have_the_keys_of_real_ones() -> None:
    shown = {name: json.loads(text) for _, name, text in blocks(ROOT / "docs" / "json.md") if name}
    status = StudyStatus(
        name="s",
        state="running",
        target=1,
        metric="f1",
        folds=5,
        epochs=1,
        trials=TrialCounts(),
        best=BestTrial(1, 0.5, {}),
        pruning=PruningStatus(),
        spent=Spent(1, {}, None, None, None),
        workers=(WorkerStatus("w", "m", "cpu", "idle"),),
    ).to_json()
    assert keys(shown["study"]) <= keys(status)
    done = run(ROOT, ["probe-vram", "demo", "--device", "cpu", "--json"])
    assert keys(shown["device"]) <= keys(json.loads(done.stdout)["devices"][0])
