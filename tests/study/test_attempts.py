"""Of several attempts at a trial, one writes in its folder: the last that began."""

from __future__ import annotations

from pathlib import Path

import pytest

from criteria_cli.study.attempts import Attempt
from criteria_cli.study.durable import read_json, write_json


def test_a_later_attempt_takes_the_folder_from_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "trial-3"
    first, second = Attempt(folder, 3, 1), Attempt(folder, 3, 2)
    first.begin()
    write_json(folder / "fold-1.json", {"by": 1}, through=first.folder)
    second.begin()
    assert first.is_superseded()
    assert not second.is_superseded()
    with pytest.raises(FileNotFoundError):
        write_json(folder / "fold-1.json", {"by": "late"}, through=first.folder)
    write_json(folder / "fold-2.json", {"by": 2}, through=second.folder)
    assert [read_json(folder / f"fold-{n}.json") for n in (1, 2)] == [{"by": 1}, {"by": 2}]
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [second.folder.name]


def test_what_was_half_written_is_never_put_in_place(tmp_path: Path) -> None:
    first, second = Attempt(tmp_path, 3, 1), Attempt(tmp_path, 3, 2)
    first.begin()
    partial = first.folder / "fold-1.json.partial"
    partial.write_text("half")
    second.begin()
    with pytest.raises(FileNotFoundError):
        partial.replace(tmp_path / "fold-1.json")
    assert list(tmp_path.iterdir()) == [second.folder]


def test_an_order_that_comes_late_begins_nothing(tmp_path: Path) -> None:
    late, now = Attempt(tmp_path, 3, 9), Attempt(tmp_path, 3, 10)
    now.begin()
    late.begin()
    assert late.is_superseded()
    assert list(tmp_path.iterdir()) == [now.folder]


def test_a_confirmation_comes_after_every_attempt_at_its_source(tmp_path: Path) -> None:
    source, confirmation = Attempt(tmp_path, 3, 7), Attempt(tmp_path, 20, 1)
    source.begin()
    confirmation.begin()
    assert source.is_superseded()
    assert not confirmation.is_superseded()


def test_the_same_attempt_may_begin_twice(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, 3, 1)
    attempt.begin()
    attempt.begin()
    assert not attempt.is_superseded()


def test_a_folder_that_was_removed_is_not_called_taken(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "trial-3", 3, 1)
    attempt.begin()
    attempt.folder.rmdir()
    attempt.trial_folder.rmdir()
    assert not attempt.is_superseded()
