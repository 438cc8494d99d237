"""A lock file has one holder; a file system without locks keeps nobody out."""

import errno
import fcntl
from pathlib import Path

import pytest

from criteria_cli.study.file_locks import held_alone


def test_the_second_is_told_and_the_lock_ends_with_the_first(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with held_alone(path) as first, held_alone(path) as second:
        assert first
        assert not second
    with held_alone(path) as again:
        assert again


def test_where_there_are_no_locks_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with held_alone(tmp_path / ".lock") as alone:
        assert alone
