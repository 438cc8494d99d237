"""Whether an SQLite file can be shared: where it lies, whether it is whole, who uses it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from desk import Desk, identity_of, spec_of

from criteria_cli.errors import StoreError, UsageError
from criteria_cli.hpo import rows, sqlite_file
from criteria_cli.hpo.prepare import prepare
from criteria_cli.hpo.rows import WorkerRow
from criteria_cli.hpo.sqlite_file import check_folder, file_system
from criteria_cli.hpo.url import read_url

MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:35 / /home rw - nfs4 fs:/home rw
41 40 0:36 / /home/scratch rw - ext4 /dev/vdb rw
42 22 0:37 / /a\\040b rw - lustre x rw
43 22 0:38 / /mnt/s rw - fuse.sshfs x rw
"""


@pytest.mark.fault(35)
def test_the_file_system_of_a_path(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    kinds = {
        path: file_system(Path(path), mounts)
        for path in ("/var/x", "/home/me/x.db", "/home/scratch/x", "/a b/x", "/mnt/s/x", "/homes/x")
    }
    assert list(kinds.values()) == ["ext4", "nfs4", "ext4", "lustre", "fuse.sshfs", "ext4"]


@pytest.mark.fault(35)
def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"40 22 0:35 / {tmp_path} rw - nfs4 fs:/home rw\n")
    monkeypatch.setattr(sqlite_file, "_MOUNTS", mounts)
    with pytest.raises(UsageError, match="is on nfs4, SQLite cannot be shared there, use Postgre"):
        check_folder(read_url(f"sqlite:///{tmp_path / 'x.db'}"))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        check_folder(read_url(f"sqlite:///{tmp_path / 'no' / 'x.db'}"))


@pytest.mark.fault(34)
@pytest.mark.parametrize("damage", ["cut", "pages", "text"])
def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path, damage: str) -> None:
    url = read_url(f"sqlite:///{tmp_path / 'x.db'}")
    prepare(url, identity_of(spec_of()))
    content = url.path.read_bytes()
    if damage == "cut":
        content = content[: len(content) // 2 + 100]
    elif damage == "pages":
        content = content[:8192] + b"\x5a" * 40_000 + content[48_192:]
    else:
        content = b"this is no database at all" * 10
    url.path.write_bytes(content)
    with pytest.raises(StoreError) as refused:
        prepare(url, identity_of(spec_of()))
    assert refused.value.code in ("store.damaged", "store.foreign")
    assert "x.db" in refused.value.message
    assert url.path.read_bytes() == content


def test_a_file_of_another_program_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    connection = sqlite3.connect(path)
    connection.execute("create table alembic_version (version_num varchar)")
    connection.execute("insert into alembic_version values ('bd07f7e963c5')")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="belongs to another program"):
        prepare(read_url(f"sqlite:///{path}"), identity_of(spec_of()))
    assert path.read_bytes() == before


@pytest.mark.fault(36)
def test_a_second_host_is_refused(tmp_path: Path) -> None:
    desk = Desk(f"sqlite:///{tmp_path / 'x.db'}")
    desk.rows("select 1")
    with desk.engine.begin() as connection:
        connection.exec_driver_sql(
            "update criteria_workers set boot = 'another', machine = 'rtx-02'"
        )
    row = WorkerRow("w2", "s", "cpu", {})
    with pytest.raises(UsageError, match="worker `w` on `rtx-02` uses this SQLite file"):
        desk.do(
            lambda c, _: rows.register(c, row, name="v", uid=desk.uid, stale_s=60, shared=False)
        )
    assert (
        desk.do(lambda c, _: rows.register(c, row, name="v", uid=desk.uid, stale_s=60, shared=True))
        == "v"
    )
    desk.close()


@pytest.mark.fault(49)
def test_a_lease_of_the_boot_before_this_one_has_run_out(tmp_path: Path) -> None:
    """The host's time of day plays no part: leases run on the time since boot."""
    first, second = (Desk(f"sqlite:///{tmp_path / 'x.db'}", spec_of()) for _ in range(2))
    lease = first.take().lease
    with first.engine.begin() as connection:
        connection.exec_driver_sql("update criteria_leases set boot = 'before'")
    assert second.take().lease.trial == lease.trial
    first.close()
    second.close()
