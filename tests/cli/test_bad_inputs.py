"""Every row of `bad_inputs.csv`: its exit code, one line, no traceback, nothing written.

A row's message is a pattern (`*` for anything); alternatives stand between `|`.
"""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from postgres_server import PostgresServer

HERE = Path(__file__).parent
SUPPORT = HERE.parent / "support"
ROWS = list(csv.DictReader((HERE / "bad_inputs.csv").read_text(encoding="utf-8").splitlines()))
CELL = "Qxzw"
PASSWORD = "s3cr3tPW"
SERVER = {"69", "70", "71", "72", "73", "74", "75", "76", "77"}
MODEL = {"86", "89", "90", "91", "92", "93", "94"}
USES_TORCH = MODEL | {"85", "87", "88", "95", "96", "99"}

HEADER = "post_id,post,DSM5_symptom,groundtruth"
PAIRS = [
    HEADER,
    *(
        f"p{n},{CELL} text {n},{kind},{int(n % 2 == 0)}"
        for n in range(12)
        for kind in ("A.1", "A.2")
    ),
]
STUDY = """schema = 1
name = "s1"

[data]
format = "pairs"
path = "posts.csv"
[validation]
folds = 2
[training]
epochs = 2
[search]
learning_rate = { low = 1e-6, high = 1e-3, log = true }
[pruner]
type = "none"
[budget]
trials = 2
"""


@dataclass
class Case:
    """A folder to prepare, and what to run there."""

    folder: Path
    request: pytest.FixtureRequest
    env: dict[str, str] = field(default_factory=dict)
    prelude: str = ""
    """Python that runs in the command's process before it: takes a package away, and the like."""

    def study(self, text: str = STUDY, *, name: str = "x.toml", data: bool = True) -> str:
        (self.folder / name).write_text(text)
        if data:
            self.posts(*PAIRS)
        return name

    def posts(self, *lines: str, name: str = "posts.csv") -> None:
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)

    def hpo(self, *arguments: str) -> list[str]:
        return ["hpo", "x.toml", *arguments]

    def with_store(self) -> None:
        """A folder where study `s1` was run."""
        shutil.copytree(self.request.getfixturevalue("finished"), self.folder, dirs_exist_ok=True)

    def model(self, kind: str = "bert") -> Path:
        shutil.copytree(self.request.getfixturevalue("models") / kind, self.folder / "m")
        return self.folder / "m"

    def train_model(self, *arguments: str) -> list[str]:
        self.study()
        return ["train", "x.toml", "--set", 'model.name="./m"', *arguments]

    @property
    def server(self) -> PostgresServer:
        found: PostgresServer = self.request.getfixturevalue("postgres")
        return found


WITHOUT_ROOT_RIGHTS = """
import ctypes
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
rights = (ctypes.c_uint32 * 6)()
libc = ctypes.CDLL(None)
assert libc.capget(header, rights) == 0
for word in (0, 1):  # effective and permitted: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    rights[word] &= ~0b110
assert libc.capset(header, rights) == 0
"""
"""Root reads and writes whatever a file's mode is; an ordinary user does not."""

Build = Callable[[Case], list[str]]
BUILDERS: dict[int, Build] = {}


def row(number: int) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        BUILDERS[number] = build
        return build

    return register


def plain(number: int, *arguments: str, study: bool = False) -> None:
    """A row that is a command line alone."""

    def build(case: Case) -> list[str]:
        if study:
            case.study()
        return list(arguments)

    BUILDERS[number] = build


def edited(number: int, old: str, new: str) -> None:
    """A row that is the study file with an edit."""

    def build(case: Case) -> list[str]:
        assert old in STUDY
        case.study(STUDY.replace(old, new))
        return case.hpo()

    BUILDERS[number] = build


def data(number: int, *lines: str) -> None:
    """A row that is a data file."""

    def build(case: Case) -> list[str]:
        case.study(data=False)
        case.posts(*lines)
        return case.hpo()

    BUILDERS[number] = build


def url(number: int, address: str) -> None:
    """A row that is a storage URL in the environment."""

    def build(case: Case) -> list[str]:
        case.env["CRITERIA_STORAGE"] = address
        return ["status"]

    BUILDERS[number] = build


# -- command line ----------------------------------------------------------------------------

plain(1, "hppo")
plain(2, "hpo")
plain(3, "hpo", "x.toml", "--trails", "5")
plain(4, "hpo", "x.toml", "--trials", "0")
plain(5, "hpo", "x.toml", "--trials", "ten")
plain(6, "hpo", "x.toml", "--device", "cuda:0,cuda:0")
plain(7, "hpo", "x.toml", "--device", "cuda:9", study=True)
plain(9, "probe-vram", "demo", "--device", "cuda:0")
plain(10, "hpo", "x.toml", "--set", "training.epochs", study=True)
plain(11, "hpo", "x.toml", "--set", "lr=1e-5", study=True)
plain(12, "hpo", "x.toml", "--set", "training.epochs=many", study=True)
plain(13, "status", "--watch", "0")
plain(14, "report", "s", "--format", "xml")
plain(
    15, "train", "x.toml", "--auto-batch", "--set", "training.auto_detect_batch_size=true",
    study=True,
)  # fmt: skip
plain(17, "predict", "m", "-")


@row(8)
def _(case: Case) -> list[str]:
    case.study()
    case.env["CUDA_VISIBLE_DEVICES"] = ""
    return case.hpo("--device", "cuda:0")


@row(16)
def _(case: Case) -> list[str]:
    case.with_store()
    return ["status", "nope"]


@row(18)
def _(case: Case) -> list[str]:
    case.posts("post_id,post", f"a,{CELL}")
    (case.folder / "out.csv").write_text("mine")
    return ["predict", "m", "posts.csv", "--out", "out.csv"]


# -- study file ------------------------------------------------------------------------------

plain(19, "hpo", "x.toml")
edited(25, "[validation]", "[model]\nnmae = 'y'\n[validation]")
edited(26, "epochs = 2", 'epochs = "20"')
edited(27, "low = 1e-6, high = 1e-3, log = true", "low = 1e-3, high = 1e-4")
edited(28, "learning_rate = { low = 1e-6", "weight_decay = { low = 0")
edited(29, "[search]", "[search]\nbatch_size = { choices = [] }")
edited(30, "[search]", "[search]\nbatch_size = { choices = [16, 16] }")
edited(31, "folds = 2", 'folds = 2\nmetric = "f1_makro"')
edited(32, "folds = 2", 'folds = 2\ndirection = "minimize"')
edited(34, "folds = 2", "folds = 5")
edited(35, 'name = "s1"', 'name = "../../etc"')
edited(36, 'name = "s1"', f'name = "s1"\nstorage = "postgresql://u:{PASSWORD}@h/d"')
edited(37, "schema = 1", "schema = 9")
edited(39, "epochs = 2", "epochs = 2\naccumulation = 5")


@row(33)
def _(case: Case) -> list[str]:
    text = STUDY.replace("folds = 2", 'scheme = "holdout"').replace("epochs = 2", "epochs = 1")
    case.study(text.replace('type = "none"', 'type = "hyperband"\nresource = "epoch"'))
    return case.hpo()


@row(34)
def _(case: Case) -> list[str]:
    text = STUDY.replace("folds = 2", "folds = 5")
    case.study(text.replace('type = "none"', 'type = "hyperband"\nmax_resource = 50'))
    return case.hpo()


@row(20)
def _(case: Case) -> list[str]:
    (case.folder / "runs").mkdir()
    return ["hpo", "runs"]


@row(21)
def _(case: Case) -> list[str]:
    case.study()
    (case.folder / "x.toml").chmod(0)
    case.prelude = WITHOUT_ROOT_RIGHTS
    return case.hpo()


@row(22)
def _(case: Case) -> list[str]:
    (case.folder / "x.toml").write_bytes("\ufeffschema = 1".encode("utf-16-le"))
    return case.hpo()


@row(23)
def _(case: Case) -> list[str]:
    case.study("schema = 1\n\n\n\n\n\na = = 1\n")
    return case.hpo()


@row(24)
def _(case: Case) -> list[str]:
    case.study("")
    return case.hpo()


@row(38)
def _(case: Case) -> list[str]:
    case.with_store()
    return ["hpo", "s1.toml", "--set", "training.epochs=3", "--trials", "9"]


# -- data ------------------------------------------------------------------------------------

data(43)
data(44, "id,text,label", f"a,{CELL},1")
data(45, HEADER, f"a,{CELL},A.1,1", f"b,{CELL},A.1,2")
data(46, HEADER, f"a,{CELL},A.1,1", f"b,{CELL},A.1,")
data(47, HEADER, "a,,A.1,1", "b,  ,A.1,0", f"c,{CELL},A.1,0", "d,,A.1,0")
data(49, HEADER, f"a,{CELL},A.1,1", f"b,{CELL},A.1,1,5")
data(50, HEADER.replace(",", ";"), f"a;{CELL};A.1;1")
data(54, HEADER, *(f"{k},{CELL} {k},A.1,{n}" for k in "ab" for n in (0, 1)), f"c,{CELL} c,A.1,0")
data(55, HEADER, f"a,{CELL},A.1,1", f"b,{CELL} b,{CELL} felt low,0")
data(56, HEADER, f"a,{CELL},A.1,0", f"b,{CELL} b,A.1,0")
data(58, HEADER, f"a,{CELL},A.1,0", f"a,{CELL} other,A.2,1", f"b,{CELL} b,A.1,1")


@row(40)
def _(case: Case) -> list[str]:
    case.study(data=False)
    return case.hpo()


def other_file(number: int, name: str, content: bytes) -> None:
    def build(case: Case) -> list[str]:
        case.study(data=False)
        (case.folder / name).write_bytes(content)
        return case.hpo("--data", name)

    BUILDERS[number] = build


other_file(41, "posts.xlsx", b"PK")
other_file(42, "posts.pkl", b"\x80\x04")
other_file(48, "posts.csv", f"{HEADER}\na,x,A.1,1\nb,{CELL} caf\xe9,A.1,0\n".encode("latin-1"))
other_file(
    51,
    "posts.jsonl",
    b'{"post_id":"a","post":"x","DSM5_symptom":"A.1","groundtruth":1}\n[1]\n',
)
other_file(52, "posts.parquet", b"PAR1 and then nothing")


@row(53)
def _(case: Case) -> list[str]:
    case.prelude = "import sys; sys.modules['pyarrow'] = None"
    other_file(53, "posts.parquet", b"PAR1")
    case.study(data=False)
    (case.folder / "posts.parquet").write_bytes(b"PAR1")
    return case.hpo("--data", "posts.parquet")


@row(57)
def _(case: Case) -> list[str]:
    case.study(STUDY.replace("folds = 2", "folds = 5"), data=False)
    rows = [f"p{n},{CELL} {n},A.1,{int(n < 3)}" for n in range(12)]
    case.posts(HEADER, *rows)
    return case.hpo()


@row(59)
def _(case: Case) -> list[str]:
    case.with_store()
    case.posts(*PAIRS, f"new,{CELL} new,A.1,1")
    return ["hpo", "s1.toml", "--trials", "9"]


@row(60)
def _(case: Case) -> list[str]:
    case.study()
    criteria = [{"id": "A.1", "name": "A", "text": "x"}, {"id": "A.2", "name": "B", "text": ""}]
    (case.folder / "criteria.json").write_text(json.dumps({"criteria": criteria}))
    return case.hpo("--set", 'data.criteria="criteria.json"')


# -- storage ---------------------------------------------------------------------------------

plain(61, "status")
url(62, f"crit:{PASSWORD}@host")
plain(63, "status", "--storage", f"postgresql://u:{PASSWORD}@h/d")
url(64, f"postgresql://u:{PASSWORD}@h:abc/d")
url(65, "sqlite://x.db")
url(66, "sqlite://")
url(67, f"mysql://u:{PASSWORD}@h/d")
url(68, "sqlite:///x.db?mode=ro")
url(69, f"postgresql://u:{PASSWORD}@nowhere.invalid/d")
url(70, f"postgresql://u:{PASSWORD}@127.0.0.1:1/d")


@row(78)
def _(case: Case) -> list[str]:
    case.study()
    return case.hpo("--storage", "sqlite:///gone/x.db")


@row(71)
def _(case: Case) -> list[str]:
    case.env["CRITERIA_STORAGE"] = case.request.getfixturevalue("guarded")(PASSWORD).replace(
        PASSWORD, f"{PASSWORD}x"
    )
    return ["status"]


@row(72)
def _(case: Case) -> list[str]:
    address: str = case.request.getfixturevalue("guarded")(PASSWORD).replace(f":{PASSWORD}", "")
    passfile = case.folder / ".pgpass"
    passfile.write_text(f"*:*:*:*:{PASSWORD}\n")
    passfile.chmod(0o644)
    case.env |= {"CRITERIA_STORAGE": address, "HOME": str(case.folder)}
    return ["status"]


@row(73)
def _(case: Case) -> list[str]:
    case.env |= {
        "CRITERIA_STORAGE": "postgresql://?service=hpo",
        "PGSERVICEFILE": str(case.folder / "none"),
    }
    return ["status"]


@row(74)
def _(case: Case) -> list[str]:
    case.env["CRITERIA_STORAGE"] = case.server.url("hpo")
    return ["status"]


def as_role(case: Case, statement: str) -> str:
    """A new database and a role without a right."""
    name = case.server.new_database()
    with case.server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("drop role if exists nlp")
        cursor.execute(statement)
    return case.server.url(name).replace("postgres@", "nlp@")


@row(75)
def _(case: Case) -> list[str]:
    case.study()
    case.env["CRITERIA_STORAGE"] = as_role(case, "create role nlp login")
    return case.hpo()


@row(76)
def _(case: Case) -> list[str]:
    case.study()
    name = case.server.new_database()
    case.env["CRITERIA_STORAGE"] = case.server.url(name)
    case.env["PGOPTIONS"] = "-c default_transaction_read_only=on"
    return case.hpo()


@row(77)
def _(case: Case) -> list[str]:
    case.env["CRITERIA_STORAGE"] = as_role(case, "create role nlp login connection limit 0")
    return ["status"]


@row(79)
def _(case: Case) -> list[str]:
    case.study()
    (case.folder / "shut").mkdir(mode=0o500)
    case.prelude = WITHOUT_ROOT_RIGHTS
    return case.hpo("--storage", "sqlite:///shut/x.db")


@row(80)
def _(case: Case) -> list[str]:
    case.study()
    (case.folder / "x.db").write_text("this is not a database, whatever its name says\n" * 20)
    return case.hpo("--storage", "sqlite:///x.db")


@row(81)
def _(case: Case) -> list[str]:
    case.with_store()
    path = case.folder / "criteria.db"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return ["hpo", "s1.toml", "--trials", "9"]


@row(82)
def _(case: Case) -> list[str]:
    case.study()
    case.prelude = (
        "import criteria_cli.hpo.sqlite_file as place; place.file_system = lambda path: 'nfs'"
    )
    return case.hpo()


def made_by(case: Case, statement: str) -> list[str]:
    case.with_store()
    connection = sqlite3.connect(case.folder / "criteria.db")
    with connection:
        connection.execute(statement)
    connection.close()
    return ["hpo", "s1.toml", "--trials", "9"]


@row(83)
def _(case: Case) -> list[str]:
    connection_made = "update alembic_version set version_num = 'v9.9.9.a'"
    arguments = made_by(case, connection_made)
    connection = sqlite3.connect(case.folder / "criteria.db")
    with connection:
        connection.execute("update version_info set library_version = '9.9.9'")
    connection.close()
    return arguments


@row(84)
def _(case: Case) -> list[str]:
    return made_by(case, "update alembic_version set version_num = 'v2.4.0.a'")


# -- model and machine -----------------------------------------------------------------------


@row(85)
def _(case: Case) -> list[str]:
    case.study()
    return ["train", "x.toml", "--set", 'model.name="./no_such_dir"']


@row(86)
def _(case: Case) -> list[str]:
    (case.folder / "m").mkdir()
    return case.train_model()


@row(87)
def _(case: Case) -> list[str]:
    case.study()
    case.env["HF_HOME"] = str(case.folder / "hub")
    return ["train", "x.toml"]


@row(88)
def _(case: Case) -> list[str]:
    case.study()
    return ["train", "x.toml", "--set", 'model.name="a b/../c"']


@row(89)
def _(case: Case) -> list[str]:
    path = case.model() / "config.json"
    (case.folder / "m" / "evil.py").write_text("open('ran', 'w')")
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "auto_map": {"AutoConfig": "evil.Config"}}))
    return case.train_model()


@row(90)
def _(case: Case) -> list[str]:
    model = case.model()
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    return case.train_model()


@row(91)
def _(case: Case) -> list[str]:
    path = case.model() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    return case.train_model()


@row(92)
def _(case: Case) -> list[str]:
    model = case.model()
    record = {"files": {"model.safetensors": "0" * 64}}
    (model / "criteria.json").write_text(json.dumps(record))
    return case.train_model()


@row(93)
def _(case: Case) -> list[str]:
    case.model()
    return case.train_model("--set", "model.max_length=4096")


@row(94)
def _(case: Case) -> list[str]:
    case.model("gpt")
    return case.train_model()


@row(95)
def _(case: Case) -> list[str]:
    case.study()
    case.model()
    return [
        "probe-vram", "x.toml", "--device", "simulated:1MiB", "--set", 'model.name="./m"',
        "--set", "model.max_length=64",
    ]  # fmt: skip


@row(96)
def _(case: Case) -> list[str]:
    case.study()
    case.model()
    return [
        "probe-vram", "x.toml", "--device", "cpu", "--set",
        'model.name="./m"', "--set", 'training.precision="fp16"', "--set", "model.max_length=64",
    ]  # fmt: skip


@row(97)
def _(case: Case) -> list[str]:
    case.study()
    case.prelude = "import criteria_cli.hpo.runs_folder as place; place.LEAST_FREE_BYTES = 2**62"
    return case.hpo()


@row(98)
def _(case: Case) -> list[str]:
    case.study()
    (case.folder / "shut").mkdir(mode=0o500)
    case.prelude = WITHOUT_ROOT_RIGHTS
    case.env["CRITERIA_RUNS"] = "shut/runs"
    return case.hpo()


@row(99)
def _(case: Case) -> list[str]:
    case.study()
    case.prelude = (
        "import importlib.metadata as metadata; found = metadata.version\n"
        "metadata.version = lambda name: '2.4.0' if name == 'torch' else found(name)"
    )
    return case.hpo()


@row(100)
def _(case: Case) -> list[str]:
    case.env["CRITERIA_STORGE"] = "sqlite:///x.db"
    return ["--version"]


@row(101)
def _(case: Case) -> list[str]:
    case.study()
    (case.folder / "posts.csv").chmod(0o644)
    return case.hpo("--dry-run")


plain(102, "--help")


# -- the test --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, run_in: Any) -> Path:
    """A folder with study `s1`, whose two trials a stand-in for the trainer has run."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "s1.toml").write_text(STUDY)
    (folder / "posts.csv").write_text("\n".join(PAIRS) + "\n")
    ran = run_in(
        folder,
        "hpo",
        "s1.toml",
        "--device",
        "cpu",
        env={
            "CRITERIA_TESTING": "1",
            "CRITERIA_TRAINER": str(SUPPORT / "synthetic_trainer.py"),
            "PYTHONPATH": str(SUPPORT),
        },
    )
    assert ran.code == 0, ran.err
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models with random weights: an encoder and a decoder."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2Model

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    bert = BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
    )
    BertForSequenceClassification(bert).save_pretrained(folder / "bert")
    gpt = GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=128)
    GPT2Model(gpt).save_pretrained(folder / "gpt")
    return folder


def test_every_row_has_a_builder() -> None:
    assert sorted(BUILDERS) == [int(row["id"]) for row in ROWS] == list(range(1, 103))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['id']}-{row['input'][:40]}")
def test_a_bad_input(
    row: dict[str, str], request: pytest.FixtureRequest, tmp_path: Path, run_in: Any
) -> None:
    case = Case(tmp_path, request)
    arguments = BUILDERS[int(row["id"])](case)
    before = snapshot(tmp_path)
    target = "/dev/full" if row["id"] == "102" else tmp_path.parent / "stdout"
    with Path(target).open("w+") as stdout:
        ran = run_in(
            tmp_path,
            *arguments,
            env={"CRITERIA_TESTING": "1", **case.env},
            prelude=case.prelude,
            stdout=stdout,
        )
    written = "" if row["id"] == "102" else Path(target).read_text()
    expected = int(row["exit"])
    said = ran.err.splitlines()
    shown = "\n".join(said)
    word = "warning: " if expected == 0 else "error: "
    assert ran.code == expected, shown
    found = [line.removeprefix(word) for line in said if line.startswith(word)]
    assert len(found) == 1, shown
    assert any(fnmatchcase(found[0], escaped(p)) for p in row["message"].split("|")), found[0]
    assert len(found[0]) <= 200
    assert "Traceback" not in ran.err
    for secret in (CELL, PASSWORD):
        assert secret not in ran.err + written
    assert str(Path.home()) not in ran.err or str(tmp_path).startswith(str(Path.home()))
    if expected != 0:
        assert snapshot(tmp_path) == before, "something was written"
    if row["id"] not in USES_TORCH:
        assert not ran.modules & {"torch", "transformers"}


def escaped(pattern: str) -> str:
    """A pattern in which `*` alone is special."""
    return pattern.replace("[", "[[]").replace("?", "[?]")


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file and its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith((".pyc", ".lock"))
        and not {"__pycache__", ".workers"} & set(path.parts)
    }
