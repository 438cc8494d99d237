"""`criteria`, and `python -m criteria_cli`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

_INTERRUPTED = 130


def main() -> int:
    """Run one command and return its exit code.

    Ctrl-C ends it without a word while the command line itself loads: nothing has begun by then.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:  # a shell has it ignored in the background
        # no exception: where a library loads, one may be swallowed or come out as another
        signal.signal(signal.SIGINT, _end)
    from criteria_cli.cli import app

    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return app.main()
    except KeyboardInterrupt:
        return _INTERRUPTED


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
