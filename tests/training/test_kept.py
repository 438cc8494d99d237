"""Memory models kept on this machine, and one probe per card at a time."""

import multiprocessing
import os
import stat
import tempfile
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from criteria_cli.training import kept
from criteria_cli.training.memory import Curve, MemoryModel

MODEL = MemoryModel(
    max_length=64,
    train=Curve(1e6, 1e3, 10.0, 0.1),
    evaluate=Curve(1e5, 1e3, 10.0, 0.1),
    optimizer_peak=1000,
    train_seconds=Curve(0.1),
    evaluate_seconds=Curve(0.1),
    allocator="segments",
    resident={"parameters": 5},
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_model_is_found_again() -> None:
    assert kept.load("key") is None
    kept.save("key", MODEL)
    assert kept.load("key") == MODEL
    assert kept.load("other") is None


def test_it_is_for_its_owner_alone() -> None:
    kept.save("key", MODEL)
    (file,) = kept.folder().iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_store_comes_first() -> None:
    kept.save("key", MODEL)
    from_store = {"key": {**MODEL.to_json(), "train_fill": 0.5}}
    found = kept.load("key", from_store)
    assert found is not None
    assert found.train_fill == 0.5


@pytest.mark.parametrize("text", ["", "{", "[]", '{"max_length": 64}', '{"rows": 3}'])
def test_a_torn_or_foreign_file_is_as_good_as_none(text: str) -> None:
    kept.save("key", MODEL)
    (kept.folder() / "key.json").write_text(text)
    assert kept.load("key") is None
    kept.save("key", MODEL)
    assert kept.load("key") == MODEL


def test_a_folder_that_cannot_be_made_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    kept.save("key", MODEL)
    assert kept.load("key") is None


def hold(identity: str, inside: Event, leave: Event) -> None:
    with kept.only_probe_of(identity):
        inside.set()
        leave.wait(60)


def start(identity: str) -> tuple[multiprocessing.Process, Event, Event]:
    fresh = multiprocessing.get_context("spawn")
    inside, leave = fresh.Event(), fresh.Event()
    process = fresh.Process(target=hold, args=(identity, inside, leave), daemon=True)
    process.start()
    return process, inside, leave


def test_one_probe_per_card(tmp_path: Path) -> None:
    card = f"GPU-{tmp_path}"
    first, first_inside, _ = start(card)
    assert first_inside.wait(60)
    second, second_inside, second_leave = start(card)
    other, other_inside, other_leave = start(f"{card}-other")
    assert other_inside.wait(60)
    assert not second_inside.is_set()
    first.kill()  # a lock ends with its process
    assert second_inside.wait(60)
    for leave in (second_leave, other_leave):
        leave.set()
    for process in (first, second, other):
        process.join(60)


def test_another_user_can_wait_for_a_probe_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not read the lock's file could never probe the card, as long as the file is there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = os.umask(0o077)
    try:
        with kept.only_probe_of("a card"):
            (lock,) = tmp_path.iterdir()
            assert lock.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)
