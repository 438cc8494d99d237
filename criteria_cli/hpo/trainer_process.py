"""A trainer as the supervisor sees it: a child process that takes orders and says what happens."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import statistics
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from criteria_cli.study.messages import (
    Answer,
    Order,
    Ping,
    Reply,
    answer_from_json,
    order_to_json,
)
from criteria_cli.study.trial import Verdict

PROGRESS_S = 600.0
"""A trainer that says nothing for so long is stuck, unless its steps are slower than a tenth."""
SETUP_S = 3600.0
"""What loading a model, reading a corpus and measuring memory may take."""
ABANDONED = 76
"""The exit status of a trainer that no longer heard its supervisor; see `training.serve`."""
_DUMP_S = 2.0


@dataclass(frozen=True)
class Launch:
    """How to start a trainer.

    Attributes:
        command: its argument list; a descriptor, our process id and a silence are appended.
        environment: all of it.
        log: where its standard output and error go.
        silence_s: it ends itself after hearing nothing for so long.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    silence_s: float
    progress_s: float = PROGRESS_S


@dataclass(frozen=True)
class Died:
    """The process has ended by itself or was stopped as stuck."""

    cause: str
    """`crashed`, `killed`, `stuck`, `error`, or `abandoned`: it had not heard us for too long."""
    message: str


class TrainerProcess:
    """One child process. Start it in a thread that outlives it: it dies with that thread.

    Args:
        holds: a descriptor that it keeps open for as long as it lives.
    """

    def __init__(self, launch: Launch, *, holds: int | None = None) -> None:
        self._launch = launch
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._gaps: deque[float] = deque(maxlen=50)
        self._heard = time.monotonic()
        reading, writing = os.pipe()
        log = os.open(launch.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = subprocess.Popen(
                [*launch.command, str(writing), str(os.getpid()), str(launch.silence_s)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(writing,) if holds is None else (writing, holds),
                env=dict(launch.environment),
                start_new_session=True,  # a terminal's Ctrl-C is ours alone
            )
        finally:
            os.close(writing)
            os.close(log)
        threading.Thread(target=self._read, args=(reading,), daemon=True, name="answers").start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, order: Order) -> None:
        """Write an order; a trainer that has died is noticed when it is heard."""
        line = json.dumps(order_to_json(order), allow_nan=False) + "\n"
        assert self._process.stdin is not None
        with self._writing, contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

    def ping(self) -> None:
        self.send(Ping())

    def say(self, verdict: Verdict) -> None:
        """Tell it at once, whatever it is doing."""
        self.send(Reply(verdict))

    def hear(self, timeout_s: float) -> Answer | Died | None:
        """The next answer, or None after `timeout_s`."""
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if answer is None:
            return self._death()
        now = time.monotonic()
        self._gaps.append(now - self._heard)
        self._heard = now
        return answer

    def ended(self) -> Died | None:
        """How it ended, if it has, though it was asked for nothing."""
        return None if self._process.poll() is None else self._death()

    def expect(self) -> None:
        """Begin to wait for something: the time before does not count as silence."""
        self._heard = time.monotonic()

    def is_stuck(self, *, starting: bool = False) -> bool:
        """Whether it has been silent for longer than its work explains."""
        limit = SETUP_S if starting else self._launch.progress_s
        if len(self._gaps) >= 5 and not starting:
            limit = max(limit, 10 * statistics.median(self._gaps))
        return time.monotonic() - self._heard > limit

    def stop_stuck(self) -> Died:
        """Have its stacks written to the log, then end it."""
        silent = time.monotonic() - self._heard
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)
            time.sleep(min(_DUMP_S, self._launch.progress_s))
        self.kill()
        return Died("stuck", f"no sign of life for {silent:.0f} s, its stacks are in the log")

    def close(self, grace_s: float = 5.0) -> None:
        """End an idle trainer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it now, and its children with it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor, encoding="utf-8") as answers:
            for line in answers:
                try:
                    self._answers.put(answer_from_json(json.loads(line)))
                except (ValueError, KeyError, TypeError):
                    break  # cut off in the middle, or not ours: it is of no more use
        self._answers.put(None)

    def _death(self) -> Died:
        try:
            status = self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
            return Died("error", "it closed its line without ending")
        self._answers.put(None)  # whoever asks again hears the same
        if status == ABANDONED:
            return Died("abandoned", "it had not heard its supervisor for too long")
        if status >= 0:
            return Died("error", f"it ended with status {status}, see the log")
        name = signal.Signals(-status).name
        if -status in (signal.SIGKILL, signal.SIGTERM):
            return Died("killed", f"ended by {name}, often for want of memory")
        return Died("crashed", f"ended by {name}, see the log")
