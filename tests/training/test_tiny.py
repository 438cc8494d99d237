"""The built-in tokenizer is kept, and made again where its file is not as it was written."""

import json
from pathlib import Path
from typing import Any

import pytest

from criteria_cli.errors import MachineError
from criteria_cli.training import tiny
from criteria_cli.training.tiny import tiny_tokenizer

TEXTS = ["I cannot sleep since May.", "Nothing is fun any more, and I eat too little."]


def definition(tokenizer: Any) -> str:
    return str(tokenizer.backend_tokenizer.to_str())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "study" / "cache"
    tiny_tokenizer(TEXTS, folder)
    return folder


def kept(cache: Path) -> Path:
    (path,) = cache.glob("tiny-tokenizer-*.json")
    return path


def test_it_is_trained_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = definition(tiny_tokenizer(TEXTS))
    monkeypatch.setattr(tiny, "_trained", lambda _: pytest.fail("trained again"))
    assert definition(tiny_tokenizer(TEXTS[::-1], cache)) == trained
    assert kept(cache).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "damage", ["cut", "zeros", "empty", "list", "vocabulary", "older", "another", "broken"]
)
def test_a_damaged_file_is_replaced(damage: str, cache: Path) -> None:
    path = kept(cache)
    whole = path.read_bytes()
    content = json.loads(whole)
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "zeros":
        path.write_bytes(bytes(len(whole)))
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "list":
        path.write_text("[]")
    elif damage == "vocabulary":
        content["tokenizer"] = content["tokenizer"].replace("sleep", "peels")
        assert json.loads(whole) != content
        path.write_text(json.dumps(content))
    elif damage == "older":
        path.write_text(content["tokenizer"])
    elif damage == "another":
        tiny_tokenizer(TEXTS[:1], cache)
        (other,) = set(cache.glob("tiny-tokenizer-*.json")) - {path}
        path.write_bytes(other.read_bytes())
    else:
        path.write_text(json.dumps({"tokenizer": [1], "sha256": 1}))
    assert definition(tiny_tokenizer(TEXTS, cache)) == definition(tiny_tokenizer(TEXTS))
    assert path.read_bytes() == whole


def test_a_folder_in_the_files_place_is_named(cache: Path) -> None:
    path = kept(cache)
    path.unlink()
    path.mkdir()
    named = f"^`cache/{path.name}` is a folder, criteria keeps a file there$"
    with pytest.raises(MachineError, match=named):
        tiny_tokenizer(TEXTS, cache)


def test_a_file_in_the_caches_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "cache").touch()
    with pytest.raises(MachineError, match=r"^`study/cache` is no folder, criteria keeps a folder"):
        tiny_tokenizer(TEXTS, tmp_path / "study" / "cache")
