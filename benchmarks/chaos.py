"""The chaos run with its figures: 8 workers, 200 trials, one process killed every half second.

    python benchmarks/chaos.py [--quick] [--json FILE]

A study under fire on SQLite, and one on a PostgreSQL server that crashes three times in between.
The invariants are checked at the end; a run that breaks one fails. `--quick`: 3 workers, 20 trials.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from chaos import ChaosFigures, run_chaos
from postgres_server import PostgresServer
from processes import Place


def run(kind: str, quick: bool, seed: int) -> ChaosFigures:
    server = PostgresServer().start() if kind == "postgresql" else None
    try:
        with tempfile.TemporaryDirectory(prefix="criteria-chaos-") as folder:
            storage = (
                server.url(server.new_database()) if server else f"sqlite:///{folder}/store.db"
            )
            place = Place(Path(folder), storage)
            size = {"workers": 3, "trials": 20} if quick else {"workers": 8, "trials": 200}
            return run_chaos(place, server=server, seed=seed, **size)
    finally:
        if server is not None:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    given = parser.parse_args()
    found = {}
    for kind in given.database or ["sqlite", "postgresql"]:
        figures = run(kind, given.quick, given.seed)
        found[kind] = figures.to_json()
        for name, value in figures.to_json().items():
            print(f"{name:20} {value}")
        print(flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
