"""Whole studies by real processes: what holds when nothing goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from invariants import check, trained_twice
from processes import Place


@pytest.fixture
def place(tmp_path: Path, storage: str) -> Place:
    return Place(tmp_path, storage)


def test_one_worker_meets_the_budget_and_a_second_start_adds_nothing(place: Place) -> None:
    place.write(trials=4)
    first = place.start()
    assert first.end() == 0, first.text
    check(place.storage, place.runs, place.name, target=4)
    again = place.start()
    assert again.end() == 0, again.text
    check(place.storage, place.runs, place.name, target=4)


def test_four_workers_share_one_budget(place: Place) -> None:
    place.write(trials=12)
    commands = [place.start() for _ in range(4)]
    for command in commands:
        assert command.end() == 0, command.text
    check(place.storage, place.runs, place.name, target=12)
    assert trained_twice(place.runs / place.name)["epochs_again"] == 0
