"""PgBouncer in transaction mode, in front of a test's PostgreSQL server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from postgres_server import PostgresServer

FOUND = shutil.which("pgbouncer")
_SETTINGS = """
[databases]
* = host={server} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 1000
"""


@contextmanager
def pgbouncer(server: PostgresServer, size: int) -> Iterator[str]:
    """A pool of so many connections a database; the address, with `{database}` in it."""
    assert FOUND is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="crpool-") as home:
        file = Path(home) / "pgbouncer.ini"
        file.write_text(_SETTINGS.format(server=server.socket, port=port, size=size))
        file.chmod(0o644)
        file.parent.chmod(0o755)  # it refuses to run as root
        process = subprocess.Popen(
            [FOUND, "-q", "-u", "nobody", str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(port, process)
            yield f"postgresql://postgres@127.0.0.1:{port}/{{database}}"
        finally:
            process.terminate()
            process.wait(20)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    while True:
        assert process.poll() is None, "PgBouncer did not start"
        with socket.socket() as line:
            if line.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
