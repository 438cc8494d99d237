"""Words planted in posts and a password planted in a URL are found where they were put, nowhere
else: not in a file, a database row, a stream, a process list, whatever goes wrong.

    python -m pytest tests/e2e/test_canary.py -rP | grep canary:

prints how many places were searched, and for what.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
import pytest
from processes import children_of, wait_until

POST_WORDS = ("zqxvulk", "wombatrix", "flurbendorf")
SENTENCE = "snorkelwyrm in the evening"
PASSWORD = "hunter2canaryPW"
WORDS = (*POST_WORDS, SENTENCE, PASSWORD)
STUDY = """schema = 1
name = "canary"
[data]
path = "data/redsm5"
[model]
name = "./model"
max_length = 192
[validation]
folds = 2
[training]
epochs = 2
precision = "fp32"
[augmentation]
enable = false
[search]
learning_rate = { low = 1e-4, high = 1e-3, log = true }
[pruner]
type = "none"
[sampler]
type = "random"
[budget]
trials = 2
"""
RAISED = (
    "prepare.tables", "prepare.optuna", "prepare.study", "sql", "claim.asked", "claim.granted",
    "claim.after", "trainer.order", "file.write", "file.sync", "file.rename", "report.stored",
    "result.before_tell", "tell.told",
)  # fmt: skip
"""An exception in each of these places, once; it passes through every handler and log above it."""
ENDED = {
    "claim.after": "kill", "trainer.order": "abort", "file.write": "enospc", "file.sync": "eio",
    "file.rename": "kill", "report.stored": "kill",
}  # fmt: skip
"""Then these ends, which nothing in the process can answer, and full and broken disks."""


@dataclass
class Place:
    """A folder of its own for everything that a command may write, and what it said."""

    folder: Path
    url: str
    said: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CRITERIA_", "PG"))}
        home = self.folder / "home"
        return {
            **kept,
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "HF_HOME": str(home / "hub"),
            "TMPDIR": str(self.folder / "tmp"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "CRITERIA_STORAGE": self.url,
        }

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "criteria_cli", *arguments],
            cwd=self.folder,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **more: str) -> int:
        process = self.start(*arguments, **more)
        try:
            out, err = process.communicate(timeout=240)
        finally:
            process.kill()
        self.said += [out, err]
        return process.returncode

    def crash(self, faults: Mapping[str, str], *arguments: str) -> int:
        """Run a command again and again until each fault has struck once; how many did."""
        struck = self.folder / f"struck-{len(list(self.folder.glob('struck-*')))}"
        struck.mkdir()
        for _ in range(2 * len(faults)):
            self.run(
                *arguments,
                CRITERIA_TESTING="1",
                CRITERIA_FAULTS=",".join(f"{name}:{action}" for name, action in faults.items()),
                CRITERIA_FAULTS_ONCE=str(struck),
            )
            if len(list(struck.iterdir())) == len(faults):
                break
        return len(list(struck.iterdir()))


def write_data(folder: Path) -> None:
    folder.mkdir(parents=True)
    posts = ["post_id,text"]
    notes = ["post_id,sentence_id,sentence_text,DSM5_symptom,status"]
    for number in range(16):
        word = POST_WORDS[number % len(POST_WORDS)]
        posts.append(f"p{number},I feel {word} today. {SENTENCE} number {number}.")
        if number % 2:
            symptom = ("ANHEDONIA", "FATIGUE")[number % 4 // 2]
            notes.append(f"p{number},s{number},I feel {word} today.,{symptom},1")
    (folder / "posts.csv").write_text("\n".join(posts))
    (folder / "annotations.csv").write_text("\n".join(notes))


def write_model(folder: Path) -> None:
    """A small encoder whose tokenizer learnt from other texts."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from criteria_cli.data.criteria import load_criteria
    from criteria_cli.training import tiny

    torch.set_num_threads(1)
    torch.manual_seed(1)
    neutral = [criterion.text for criterion in load_criteria("dsm5-mdd", folder)]
    config = BertConfig(
        vocab_size=2048,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        pad_token_id=0,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tiny.tiny_tokenizer(neutral).save_pretrained(folder)


@pytest.fixture
def place(tmp_path: Path, guarded: Callable[[str], str]) -> Place:
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    write_data(tmp_path / "data" / "redsm5")
    write_model(tmp_path / "model")
    (tmp_path / "canary.toml").write_text(STUDY)
    return Place(tmp_path, guarded(PASSWORD))


def files_written(place: Place) -> Iterator[Path]:
    given = (place.folder / "data", place.folder / "model")
    for path in place.folder.rglob("*"):
        if path.is_file() and not any(path.is_relative_to(folder) for folder in given):
            yield path


def rows(url: str) -> Iterator[str]:
    """Every row of every table."""
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("select tablename from pg_tables where schemaname = 'public'")
        for (table,) in cursor.fetchall():
            cursor.execute(f'select t::text from "{table}" t')
            yield from (row for (row,) in cursor.fetchall())


@dataclass
class Search:
    """Places that were searched for the words, and where one stood."""

    searched: Counter[str] = field(default_factory=Counter)
    hits: list[str] = field(default_factory=list)

    def look(self, kind: str, where: str, content: bytes | str) -> None:
        self.searched[kind] += 1
        found = content if isinstance(content, bytes) else content.encode()
        self.hits += [f"{where}: {word}" for word in WORDS if word.encode() in found]

    def everywhere(self, place: Place) -> None:
        """Every file, row and stream."""
        for path in files_written(place):
            kind = "cached token files" if "cache" in path.parts else "files"
            self.look(kind, str(path.relative_to(place.folder)), path.read_bytes())
            mode = path.stat().st_mode & 0o777
            if path.is_relative_to(place.folder / "runs") and mode & 0o077:
                self.hits.append(f"{path.relative_to(place.folder)} has mode {mode:o}")
        for row in rows(place.url):
            self.look("rows", row, row)
        for said in place.said:
            self.look("streams", said, said)
            self.hits += [said] if "Traceback" in said else []

    def processes(self, pid: int, *, root: bool = True) -> None:
        """What `ps` and /proc show of a process and its descendants.

        The environment of the first is the user's own, who put the password there.
        """
        for name in ("cmdline", "status") if root else ("cmdline", "status", "environ"):
            try:
                content = Path(f"/proc/{pid}/{name}").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                return
            self.look("processes", f"/proc/PID/{name}", content)
        for child in children_of(pid):
            self.processes(child, root=False)

    def conclude(self, after: str, at_least: int) -> None:
        """Print the count and fail on a hit."""
        places = ", ".join(f"{count} {kind}" for kind, count in sorted(self.searched.items()))
        total = sum(self.searched.values())
        print(
            f"canary: after {after}, {len(WORDS)} words searched in {total} places ({places}): "
            f"{len(self.hits)} hits"
        )
        assert not self.hits
        assert total >= at_least


def trainer_of(process: subprocess.Popen[str]) -> None:
    """Wait until the trainer stands in the process list."""

    def there() -> bool:
        for child in children_of(process.pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                if b"criteria_cli.training.serve" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return True
        return process.poll() is not None

    wait_until(there, 120, "the trainer's start")
    assert process.poll() is None, process.communicate()[1]


def test_nothing_leaks_from_a_search_to_a_prediction(place: Place) -> None:
    search = Search()
    hpo = place.start("hpo", "canary.toml", "--device", "cpu")
    try:
        trainer_of(hpo)
        search.processes(hpo.pid)
        out, err = hpo.communicate(timeout=240)
    finally:
        hpo.kill()
    place.said += [out, err]
    assert hpo.returncode == 0, err
    assert search.searched["processes"] >= 5
    assert place.run("train", "canary.toml", "--from", "best", "--device", "cpu", "--debug") == 0
    (place.folder / "data" / "new.csv").write_text(f"post_id,post\nn1,I feel {POST_WORDS[0]}.\n")
    assert place.run("predict", "runs/canary/model", "data/new.csv", "--evidence") == 0
    for arguments in (
        ["report", "canary"],
        ["report", "canary", "--format", "png"],
        ["report", "canary", "--format", "tensorboard"],
        ["status", "canary"],
        ["status", "--json"],
        ["doctor"],
        ["doctor", "--json"],
        ["hpo", "canary.toml", "--dry-run"],
        ["probe-vram", "canary.toml", "--device", "cpu"],
    ):
        assert place.run(*arguments) == 0, place.said[-1]
    written = {path.name for path in files_written(place)}
    assert {"report.html", "README.md", "new-scores.csv", "hpo.log", "history.png"} <= written
    search.everywhere(place)
    search.conclude("hpo, train, predict, report and the rest", 80)
    sighted = Search()  # where they were planted, they are found
    sighted.look("data", "posts", (place.folder / "data" / "redsm5" / "posts.csv").read_bytes())
    sighted.look("address", "url", place.url)
    assert len(sighted.hits) == len(WORDS)


def test_nothing_leaks_from_crashes(place: Place) -> None:
    command = ("hpo", "canary.toml", "--device", "cpu", "--debug")
    crashes = place.crash(dict.fromkeys(RAISED, "raise"), *command, "--trials", "3")
    crashes += place.crash(ENDED, *command, "--trials", "6")
    # a cell that is no label, a row that is too long, a post given twice
    posts = place.folder / "data" / "redsm5" / "posts.csv"
    good = posts.read_text()
    for bad in (f"p1,{POST_WORDS[0]} again", f"p99,a,{POST_WORDS[1]}", f'p98,"{SENTENCE}'):
        posts.write_text(f"{good}\n{bad}")
        assert place.run("hpo", "canary.toml", "--debug", "--json") == 2
    posts.write_text(good)
    assert place.run("status", "canary", "--storage", "sqlite:///none.db") == 4
    for bad in ("@bad", "/x@y:z"):
        place.url, kept = place.url.replace(f":{PASSWORD}", f":{PASSWORD}{bad}"), place.url
        place.run("status", "--debug")
        place.url = kept
    assert crashes >= 20
    search = Search()
    search.everywhere(place)
    search.conclude(f"{crashes} crashes and 6 refusals", 80)


def test_a_killed_search_leaves_no_core(place: Place) -> None:
    process = place.start("hpo", "canary.toml", "--device", "cpu")
    trainer_of(process)
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert "Max core file size        0" in limits
    process.send_signal(signal.SIGABRT)
    process.communicate(timeout=60)
    assert not list(place.folder.glob("core*"))
