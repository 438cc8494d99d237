"""Words planted in posts and a password planted in a URL are found where they were put, nowhere
else: not in a file, a database row, a stream, a process list, whatever goes wrong.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
import pytest
from processes import children_of, wait_until

POST_WORDS = ("zqxvulk", "wombatrix", "flurbendorf")
SENTENCE = "snorkelwyrm in the evening"
PASSWORD = "hunter2canaryPW"
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
CRASHES = (
    "claim.after:kill@1",
    "trainer.order:exit@1",
    "report.stored:kill@2",
    "result.before_tell:kill@1",
    "file.rename:kill@2",
    "file.write:enospc@3",
    "sql:raise@30",
)


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

    def start(self, *arguments: str, faults: str = "") -> subprocess.Popen[str]:
        more = {"CRITERIA_TESTING": "1", "CRITERIA_FAULTS": faults} if faults else {}
        return subprocess.Popen(
            [sys.executable, "-m", "criteria_cli", *arguments],
            cwd=self.folder,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, faults: str = "") -> int:
        process = self.start(*arguments, faults=faults)
        out, err = process.communicate(timeout=240)
        self.said += [out, err]
        return process.returncode


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


def check(place: Place) -> int:
    """Search everything; how many places were searched."""
    searched = 0
    words = [*POST_WORDS, SENTENCE, PASSWORD]
    for path in files_written(place):
        content = path.read_bytes()
        searched += 1
        for word in words:
            assert word.encode() not in content, f"{path.relative_to(place.folder)}: {word}"
        mode = path.stat().st_mode & 0o777
        if path.is_relative_to(place.folder / "runs"):
            assert mode & 0o077 == 0, f"{path.relative_to(place.folder)} has mode {mode:o}"
    for row in rows(place.url):
        searched += 1
        assert not any(word in row for word in words), row
    for said in place.said:
        searched += 1
        assert not any(word in said for word in words), said
        assert "Traceback" not in said
    return searched


def arguments_of(pid: int) -> list[str]:
    """What a process list shows of a process and its descendants."""
    try:
        found = [Path(f"/proc/{pid}/cmdline").read_text()]
    except FileNotFoundError:
        return []
    return [*found, *(line for child in children_of(pid) for line in arguments_of(child))]


def trainer_of(process: subprocess.Popen[str]) -> str:
    """The process list once the trainer stands in it."""
    seen: list[str] = []

    def there() -> bool:
        seen[:] = arguments_of(process.pid)
        return any("criteria_cli.training.serve" in line for line in seen)

    wait_until(lambda: there() or process.poll() is not None, 120, "the trainer's start")
    assert seen, process.communicate()[1]
    return " ".join(seen)


def test_nothing_leaks_from_a_search_to_a_prediction(place: Place) -> None:
    hpo = place.start("hpo", "canary.toml", "--device", "cpu")
    assert PASSWORD not in trainer_of(hpo)
    out, err = hpo.communicate(timeout=240)
    place.said += [out, err]
    assert hpo.returncode == 0, err
    assert place.run("train", "canary.toml", "--from", "best", "--device", "cpu", "--debug") == 0
    (place.folder / "data" / "new.csv").write_text(f"post_id,post\nn1,I feel {POST_WORDS[0]}.\n")
    assert place.run("predict", "runs/canary/model", "data/new.csv", "--evidence") == 0
    for arguments in (["report", "canary"], ["status", "canary"], ["status", "--json"], ["doctor"]):
        assert place.run(*arguments) == 0
    assert check(place) > 50


def test_nothing_leaks_from_crashes(place: Place) -> None:
    for number, fault in enumerate(CRASHES, 2):
        place.run(
            "hpo", "canary.toml", "--device", "cpu", "--trials", str(number), "--debug",
            faults=fault,
        )  # fmt: skip
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
    assert check(place) > 50


def test_a_killed_search_leaves_no_core(place: Place) -> None:
    process = place.start("hpo", "canary.toml", "--device", "cpu")
    assert trainer_of(process)
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert "Max core file size        0" in limits
    process.send_signal(signal.SIGABRT)
    process.communicate(timeout=60)
    assert not list(place.folder.glob("core*"))
