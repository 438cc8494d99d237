"""Two terminals on a machine with two cards take different ones without being told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from criteria_cli.errors import MachineError, UsageError
from criteria_cli.hpo.device_locks import Card, Held, lock_folder, take_devices

CARDS = [Card("cuda:0", "GPU-a", "A100"), Card("cuda:1", "GPU-b", "A100")]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def held() -> Iterator[list[Held]]:
    taken: list[Held] = []
    yield taken
    for device in taken:
        device.release()


def test_each_start_takes_a_card_that_is_free(held: list[Held]) -> None:
    for expected in ("cuda:0", "cuda:1"):
        held += take_devices("auto", 1, CARDS)
        assert held[-1].device == expected
    with pytest.raises(MachineError, match="1 free GPU wanted, 0 of 2 are free"):
        take_devices("auto", 1, CARDS)
    held.pop(0).release()
    held += take_devices("auto", 1, CARDS)
    assert held[-1].device == "cuda:0"


def test_a_card_is_known_by_its_identity_not_by_its_number(held: list[Held]) -> None:
    held += take_devices("auto", 1, CARDS)
    hidden = [Card("cuda:0", "GPU-b", "A100")]  # as CUDA_VISIBLE_DEVICES=1 shows it
    held += take_devices("auto", 1, hidden)
    with pytest.raises(MachineError):
        take_devices("auto", 1, hidden)


def test_auto_workers_take_what_is_free(held: list[Held]) -> None:
    held += take_devices("auto", 1, CARDS)
    held += take_devices("auto", "auto", CARDS)
    assert [device.device for device in held] == ["cuda:0", "cuda:1"]


def test_too_few_free_cards_hold_none(held: list[Held]) -> None:
    held += take_devices("auto", 1, CARDS)
    with pytest.raises(MachineError, match="2 free GPUs wanted, 1 of 2 are free"):
        take_devices("auto", 2, CARDS)
    held += take_devices("auto", 1, CARDS)


def test_a_held_card_is_shared_where_it_is_named(held: list[Held]) -> None:
    held += take_devices("cuda:1", 1, CARDS)
    held += take_devices("cuda:1", 1, CARDS)
    assert [device.device for device in held] == ["cuda:1", "cuda:1"]


@pytest.mark.parametrize(
    ("asked", "cards", "message"),
    [
        ("cuda:9", CARDS, "GPU 9 does not exist, this machine has 0 to 1"),
        ("cuda:0", [], "GPU 0 does not exist, no GPU is visible"),
    ],
)
def test_a_card_that_is_not_there(asked: str, cards: list[Card], message: str) -> None:
    with pytest.raises(MachineError, match=message):
        take_devices(asked, 1, cards)


def test_a_name_that_is_none() -> None:
    with pytest.raises(UsageError, match="`--device` must be"):
        take_devices("gpu", 1, CARDS)


def test_the_cpu_is_shared(held: list[Held]) -> None:
    for _ in range(3):
        held += take_devices("auto", 2, [])
    assert [device.device for device in held] == ["cpu"] * 6


def test_the_folder_is_private_and_ours(tmp_path: Path) -> None:
    folder = lock_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(MachineError, match="belongs to somebody else"):
        lock_folder()
    os.unlink(folder)  # noqa: PTH108
