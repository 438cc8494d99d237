"""Starts many workers cheaply: one process imports everything, then forks itself for each.

Reads one JSON line per worker: {"arguments": [...], "output": FILE}; answers with its process
id. A worker that is killed is a real process that is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import run_worker


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not kept
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(order)
        print(child, flush=True)


def _become(order: dict[str, object]) -> None:
    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        output = os.open(str(order["output"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        silence = os.open(os.devnull, os.O_RDONLY)
        os.dup2(silence, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["run_worker.py", *order["arguments"]]  # type: ignore[misc]
        status = run_worker.main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
