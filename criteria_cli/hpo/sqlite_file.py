"""Whether an SQLite file can be shared: its folder, its file system, its health, its host."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from criteria_cli.errors import StoreError, UsageError
from criteria_cli.hpo.trouble import damaged, store_error
from criteria_cli.hpo.url import StoreUrl

_MOUNTS = Path("/proc/self/mountinfo")
NETWORK_TYPES = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "fuse.s3fs",
    "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs",
    "smb3", "smbfs", "virtiofs",
}  # fmt: skip
_HEADER = b"SQLite format 3\x00"


def check_folder(url: StoreUrl) -> None:
    """Raise unless the file can be there and be written.

    Raises:
        StoreError: no such folder, or no right to write.
        UsageError: the folder is on a network file system, whose locks cannot be trusted.
    """
    folder = url.path.parent
    if not folder.is_dir():
        raise StoreError(
            f"storage: the folder of `{url.label}` does not exist", code="store.no_folder"
        )
    kind = file_system(folder)
    if kind in NETWORK_TYPES:
        raise UsageError(
            f"storage: `{url.label}` is on {kind}, SQLite cannot be shared there, use PostgreSQL",
            hint="or a file on a disk of this machine",
            code="storage.network",
        )
    writable = os.access(folder, os.W_OK) and (
        not url.path.exists() or os.access(url.path, os.W_OK)
    )
    if not writable or _read_only_mount(folder):
        raise StoreError(f"storage: `{url.label}` is not writable", code="store.read_only")


def file_system(path: Path, mounts: Path | None = None) -> str:
    """The type of the file system that a path lies on, such as `ext4`; empty if not known."""
    return _mount_of(path, mounts or _MOUNTS)[0]


def _read_only_mount(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _mount_of(path: Path, mounts: Path) -> tuple[str, str]:
    resolved = path.resolve()
    best, kind = "", ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        if resolved.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind, best


def check_health(url: StoreUrl) -> None:
    """Raise if an existing file is not a whole database. An absent or empty file is fine.

    Raises:
        StoreError: it is something else, or damaged.
    """
    if not url.path.exists() or url.path.stat().st_size == 0:
        return
    with url.path.open("rb") as file:
        if file.read(len(_HEADER)) != _HEADER:
            raise StoreError(
                f"storage: `{url.label}` is not an SQLite database", code="store.foreign"
            )
    try:
        connection = sqlite3.connect(url.path, timeout=60)
        try:
            found = connection.execute("pragma quick_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise store_error(error, url) from None
    if found is None or found[0] != "ok":
        raise damaged(url)
