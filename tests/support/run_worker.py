"""`criteria hpo` without the command line: the real supervisor, quick to start.

Arguments: a study file, a storage URL, a runs folder, and options as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from criteria_cli.errors import CriteriaError, MachineError, Saved, StoreError, UsageError
from criteria_cli.hpo.device_locks import Card
from criteria_cli.hpo.events import HpoEvent, StudyView
from criteria_cli.hpo.options import SearchOptions
from criteria_cli.hpo.supervisor import Machine, search
from criteria_cli.study.files import load_definition

_EXITS = ((UsageError, 2), (MachineError, 3), (StoreError, 4), (Saved, 75))


def main() -> int:
    file, storage, runs, given = sys.argv[1:]
    extra = json.loads(given)
    cards = [
        Card(f"cuda:{n}", identity, "card") for n, identity in enumerate(extra.pop("cards", []))
    ]
    machine = Machine(
        cards=cards,
        command=[sys.executable, str(Path(__file__).with_name("synthetic_trainer.py"))],
        environment=lambda threads: {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "CRITERIA_FAULTS": os.environ.get("TRAINER_FAULTS", ""),
        },
        threads=lambda team: 1,
        data_sha256=extra.pop("data", "d" * 64),
        pairs=100,
    )
    options = SearchOptions(storage=storage, runs=Path(runs), **extra)

    def observe(event: HpoEvent | StudyView) -> None:
        if not isinstance(event, StudyView):
            print(event, flush=True)

    try:
        result = search(load_definition(file), options, observe, machine)
    except CriteriaError as error:
        print(f"error: {error.message}\n  hint: {error.hint}", file=sys.stderr, flush=True)
        return next((code for kind, code in _EXITS if isinstance(error, kind)), 1)
    except KeyboardInterrupt:
        return 130
    print(result.status.trials, result.ended, flush=True)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
