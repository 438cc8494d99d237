"""How many workers a PostgreSQL server holds: connections, transactions and processor time of each.

    python benchmarks/connections.py [--quick] [--json FILE]

Real `criteria hpo` processes with a synthetic trainer (`tests/support`) work on one study, on a
real server with `max_connections = 20`, of which 17 are for them. The first round fits, the second
does not: what cannot connect has to wait, and the budget must be met all the same. The third goes
through PgBouncer in transaction mode, where it is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))

from invariants import check
from pgbouncer import FOUND, pgbouncer
from postgres_server import PostgresServer
from processes import Place

LIMIT, RESERVED, POOL = 20, 3, 10
EPOCH_S = 1.0
TIMINGS = {"lease": 90.0, "beat": 15.0, "poll": 2.0, "view": 2.0}
"""As in a real study."""


@dataclass
class Samples:
    """What the server says while a study runs, twice a second."""

    server: PostgresServer
    database: str
    connections: list[int] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def take(self) -> None:
        connection = self.server.connect()
        count = f"select count(*) from pg_stat_activity where datname = '{self.database}'"
        with connection.cursor() as cursor:
            while not self.ended.wait(0.5):
                cursor.execute(count)
                found = cursor.fetchone()
                assert found is not None
                self.connections.append(int(found[0]))
        connection.close()


def processor_s(pid: int) -> float:
    """Processor time of the server and of all its connections, those that ended among them."""
    ticks = os.sysconf("SC_CLK_TCK")

    def used(process: int, last: int) -> float:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return sum(int(value) for value in fields[11:last]) / ticks

    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return used(pid, 15) + sum(used(int(child), 13) for child in children)


def measure(server: PostgresServer, folder: Path, commands: int, address: str | None) -> Any:
    """One study by so many commands; `address` is a pooler's, with `{database}` in it."""
    database = server.new_database()
    storage = (address or server.url("{database}")).format(database=database)
    place = Place(folder, storage, timings=TIMINGS).write(trials=2 * commands, epochs=3)
    samples = Samples(server, database)
    sampler = threading.Thread(target=samples.take)
    before, began = processor_s(server.pid), time.monotonic()
    sampler.start()
    env = {"SYNTHETIC_EPOCH_S": str(EPOCH_S)}
    started = [place.start(env=env) for _ in range(commands)]
    codes = [command.end(600) for command in started]
    for command, code in zip(started, codes, strict=True):
        if code != 0:
            print(code, command.text[-300:], file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    samples.ended.set()
    sampler.join()
    check(server.url(database), place.runs, place.name, target=2 * commands)
    rows = server.execute(
        f"select xact_commit + xact_rollback from pg_stat_database where datname = '{database}'"
    )
    log = place.log.read_text()
    spent = processor_s(server.pid) - before
    return {
        "commands": commands,
        "pooled": address is not None,
        "trials": 2 * commands,
        "exit_codes": sorted(set(codes)),
        "seconds": round(seconds, 1),
        "connections_peak": max(samples.connections),
        "connections_median": statistics.median(samples.connections),
        "waits": log.count("the store is full") + log.count("too many clients"),
        "transactions_per_trial": round(int(str(rows[0][0])) / (2 * commands), 1),
        "server_processor_s_per_trial": round(spent / (2 * commands), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few workers, without a pooler")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "connections.json")
    given = parser.parse_args()
    server = PostgresServer(LIMIT).start()
    rounds = []
    try:
        for commands in (2, 4) if given.quick else (8, 16):
            with tempfile.TemporaryDirectory() as folder:
                rounds.append(measure(server, Path(folder), commands, None))
            print(json.dumps(rounds[-1]), flush=True)
        if not given.quick and FOUND:
            with tempfile.TemporaryDirectory() as folder, pgbouncer(server, POOL) as address:
                rounds.append(measure(server, Path(folder), 16, address))
            print(json.dumps(rounds[-1]), flush=True)
    finally:
        server.stop()
    result = {
        "schema": "criteria.connections/1",
        "max_connections": LIMIT,
        "reserved": RESERVED,
        "pool": POOL,
        "epoch_s": EPOCH_S,
        "epochs_per_trial": 6,
        "rounds": rounds,
    }
    given.json.parent.mkdir(exist_ok=True)
    given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
