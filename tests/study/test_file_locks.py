"""A lock file has one holder; a file system without locks keeps nobody out."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from criteria_cli.errors import MachineError
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


@pytest.mark.parametrize("kind", ["folder", "link", "link to nothing", "pipe"])
def test_what_is_not_a_file_is_named_and_left_alone(kind: str, tmp_path: Path) -> None:
    path, other = tmp_path / "train-1" / ".lock", tmp_path / "other"
    path.parent.mkdir()
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            other.touch()
            path.symlink_to(other)
        case "link to nothing":
            path.symlink_to(other)
        case "pipe":
            os.mkfifo(path)
    with (
        pytest.raises(MachineError, match=r"^`train-1/.lock` is not a file, it is where a lock"),
        held_alone(path),
    ):
        pass
    assert other.exists() == (kind == "link")
