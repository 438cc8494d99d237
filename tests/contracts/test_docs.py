"""Documentation that is wrong breaks the build: every command shown is run or at least parsed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from criteria_cli.cli.app import app, with_watch_value
from criteria_cli.cli.environment import VARIABLES
from criteria_cli.cli.failures import EXIT_CODES
from criteria_cli.hpo.facts import BestTrial, PruningStatus, StudyStatus, TrialCounts, WorkerStatus
from criteria_cli.study.reference import reference

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)(#[^)]*)?\)")


def blocks(path: Path) -> list[tuple[str, str, str]]:
    return BLOCK.findall(path.read_text(encoding="utf-8"))


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for kind, _, content in blocks(page):
            for line in content.splitlines() if kind == "console" else []:
                if line.startswith("criteria "):
                    yield page.name, line
        for inline in re.findall(r"`(criteria [^`]+)`", page.read_text(encoding="utf-8")):
            named = inline.split()[1:]
            if len(named) == 1 and named[0] in ("hpo", "train", "predict", "report", "init"):
                continue  # speaks of the command, does not call it
            if not re.search(r"\b[A-Z]{3,}\b|\.\.\.", inline):
                yield page.name, inline


COMMANDS = sorted(set(commands()))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has what the pages speak of: data, study files, tables of pairs."""
    folder = tmp_path_factory.mktemp("docs")
    for page in PAGES:
        for _, name, content in blocks(page):
            if name and page.name == "recipes.md":
                (folder / name).write_text(content, encoding="utf-8")
    data = folder / "data" / "redsm5"
    data.mkdir(parents=True)
    symptoms = ["DEPRESSED_MOOD", "ANHEDONIA", "SLEEP_ISSUES"]
    posts, notes = ["post_id,text"], ["post_id,sentence_id,sentence_text,DSM5_symptom,status"]
    for number in range(30):
        posts.append(f"p{number},Sentence {number}.")
        if number % 2:
            notes.append(f"p{number},s{number},Sentence {number}.,{symptoms[number % 3]},1")
    (data / "posts.csv").write_text("\n".join(posts))
    (data / "annotations.csv").write_text("\n".join(notes))
    pairs = ["chunk,text,hypothesis,entailed,contract"]
    pairs += [f"c{n},Text {n}.,B.1,{n % 2},k{n // 2}" for n in range(40)]
    (folder / "pairs.csv").write_text("\n".join(pairs))
    run(folder, ["init", "my.toml", "--like", "deberta_base_aug"])
    return folder


def run(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CRITERIA_")}
    return subprocess.run(
        [sys.executable, "-m", "criteria_cli", *arguments],
        cwd=folder,
        env={**kept, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda text: text[:60])
def test_a_command_is_understood(page: str, command: str, place: Path) -> None:
    """Searches and trainings are checked to the end by `--dry-run`; the rest is parsed."""
    arguments = shlex.split(command, comments=True)[1:]
    for stop in ("|", "&&", ">"):
        if stop in arguments:
            arguments = arguments[: arguments.index(stop)]
    named = [item for item in arguments if item.endswith(".toml") and arguments[0] != "init"]
    if named and not all((place / item).exists() for item in named):
        pytest.skip("names a file of its own page")  # which its own test runs
    if arguments[0] in ("hpo", "train") and "--help" not in arguments:
        if "demo" not in arguments and not named and "--data" not in arguments:
            arguments += ["--data", "data/redsm5"]
        if "--from" not in arguments:
            arguments += [] if "--dry-run" in arguments else ["--dry-run"]
        else:
            arguments.append("--help")
    else:
        arguments.append("--help")
    if arguments[-1] == "--help":
        # the line is parsed whole before help is printed: an unknown flag would raise
        app(with_watch_value(arguments), prog_name="criteria", standalone_mode=False)
        return
    done = run(place, arguments)
    assert done.returncode == 0, f"{page}: {command}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


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
            if key not in ("params", "by_reason", "memory_model", "plans"):
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
        workers=(WorkerStatus("w", "m", "cpu", "idle"),),
    ).to_json()
    assert keys(shown["study"]) <= keys(status)
    done = run(ROOT, ["probe-vram", "demo", "--device", "cpu", "--json"])
    assert keys(shown["device"]) <= keys(json.loads(done.stdout)["devices"][0])
