"""The tightest limit of this process's control groups and the machine, from their files."""

from pathlib import Path

import pytest

from criteria_cli.training.host import HostMemory, memory_limit

GIB = 2**30


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(
        f"MemTotal: {64 * 2**20} kB\nMemFree: {2 * 2**20} kB\nMemAvailable: {40 * 2**20} kB\n"
    )
    return folder


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_without_groups_it_is_the_machine(proc: Path, tmp_path: Path) -> None:
    found = memory_limit(proc, tmp_path / "none")
    assert found == HostMemory(64 * GIB, 40 * GIB, "machine")


def test_version_2_walks_up_to_the_tightest(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/jobs/7/step\n")
    root = tmp_path / "cgroup"
    write(root / "jobs" / "7" / "step", memory__max="max", memory__current=1)
    write(
        root / "jobs" / "7",
        memory__max=8 * GIB,
        memory__current=3 * GIB,
        memory__stat=f"anon 1\ninactive_file {GIB}",
    )
    write(root / "jobs", memory__max=16 * GIB, memory__current=4 * GIB, memory__stat="anon 1")
    # 8 GiB less 3 in use, of which 1 is file pages that would be dropped
    assert memory_limit(proc, root) == HostMemory(8 * GIB, 6 * GIB, "control group")


def test_version_1_and_its_word_for_no_limit(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("9:name=systemd:/\n4:memory:/box\n")
    root = tmp_path / "cgroup"
    write(
        root / "memory" / "box",
        memory__limit_in_bytes=4 * GIB,
        memory__usage_in_bytes=GIB,
        memory__stat="total_inactive_file 0",
    )
    write(root / "memory", memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=0)
    assert memory_limit(proc, root) == HostMemory(4 * GIB, 3 * GIB, "control group")


def test_inside_a_container_the_mount_itself_is_the_group(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/a/path/of/the/host\n")
    root = tmp_path / "cgroup"
    write(root, memory__max=2 * GIB, memory__current=GIB, memory__stat="inactive_file 0")
    assert memory_limit(proc, root) == HostMemory(2 * GIB, GIB, "control group")


def test_a_group_larger_than_the_machine_does_not_count(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/\n")
    root = tmp_path / "cgroup"
    write(root, memory__max=128 * GIB, memory__current=GIB, memory__stat="inactive_file 0")
    assert memory_limit(proc, root).source == "machine"


def test_this_machine_answers() -> None:
    found = memory_limit()
    assert 0 < found.free_bytes <= found.total_bytes
