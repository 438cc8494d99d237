"""The trainer process: trials in on standard input, events out on a pipe.

It has no terminal and no database. It ends with its supervisor, or when it has heard nothing from
it for too long: a supervisor that sleeps may have lost the trial to another worker. Standard error
goes to the study's log and gets no text of a post and no home path: of an unexpected error its type
and its frames.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Protocol

from criteria_cli.errors import CriteriaError, MachineError, TrialFailed, UsageError
from criteria_cli.failpoints import failpoint
from criteria_cli.study.frames import bare_traceback
from criteria_cli.study.log_lines import log_formatter
from criteria_cli.study.messages import (
    Answer,
    Ended,
    Failed,
    Learned,
    Ping,
    Ready,
    Reply,
    Said,
    TrainerSetup,
    TrialOrder,
    answer_to_json,
    order_from_json,
)
from criteria_cli.study.spec import Hyperparameters, StudySpec
from criteria_cli.study.trial import Event, Outcome, Progress, Report, TrialRun, Verdict

ABANDONED = 76
"""The exit status of a trainer that no longer hears its supervisor."""
UNUSABLE = 77
"""The exit status of a trainer that should not train another trial."""
_PR_SET_PDEATHSIG = 1
_DISK = {
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM,
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
}  # fmt: skip
"""Full, over quota, broken, read-only, or a folder that is not what it was."""


class AnyTrainer(Protocol):
    """What this process serves: `training.trainer.Trainer`, or a stand-in in tests."""

    def ready(self) -> Ready: ...

    def run_trial(
        self,
        spec: StudySpec,
        hyperparameters: Hyperparameters,
        *,
        report: Report,
        run: TrialRun | None = None,
    ) -> Outcome: ...


Learn = Callable[[Learned], None]
MakeTrainer = Callable[[TrainerSetup, Learn], AnyTrainer]


class Wire:
    """Both directions to the supervisor.

    Args:
        answers: the descriptor to write to.
        silence_s: end this process after so long without a word.
    """

    def __init__(self, answers: int, silence_s: float) -> None:
        self._answers = answers
        self._silence_s = silence_s
        self._heard = _since_boot()
        self._writing = threading.Lock()
        self._changed = threading.Condition()
        self._at_once: Verdict | None = None
        self._replies: dict[int, Verdict] = {}
        self._number = 0
        self.orders: queue.SimpleQueue[TrainerSetup | TrialOrder] = queue.SimpleQueue()

    def listen(self) -> None:
        """Start hearing the supervisor."""
        threading.Thread(target=self._read, daemon=True, name="orders").start()
        threading.Thread(target=self._watch, daemon=True, name="silence").start()

    def send(self, answer: Answer) -> None:
        line = json.dumps(answer_to_json(answer), allow_nan=False) + "\n"
        rest = memoryview(line.encode())
        with self._writing:
            while rest:
                try:
                    rest = rest[os.write(self._answers, rest) :]
                except BrokenPipeError:
                    os._exit(0)  # nobody listens any more

    def begin(self) -> None:
        """Forget what was said about the trial before."""
        with self._changed:
            self._at_once = None
            self._replies.clear()

    def report(self, event: Event) -> Verdict:
        """Send an event; wait for the reply unless it is a sign of life."""
        if isinstance(event, Progress):
            self.send(Said(event))
            with self._changed:
                return self._at_once or Verdict.CONTINUE
        self._number += 1
        number = self._number
        self.send(Said(event, number))
        with self._changed:
            self._changed.wait_for(lambda: self._at_once or number in self._replies)
            return self._at_once or self._replies.pop(number)

    def _read(self) -> None:
        for line in sys.stdin:
            self._heard = _since_boot()
            match order_from_json(json.loads(line)):
                case Reply(verdict, to):
                    with self._changed:
                        if to is None:
                            self._at_once = verdict
                        else:
                            self._replies[to] = verdict
                        self._changed.notify_all()
                case Ping():
                    pass
                case order:
                    self.orders.put(order)
        os._exit(0)  # the supervisor has closed the line

    def _watch(self) -> None:
        while _since_boot() - self._heard < self._silence_s:
            time.sleep(min(1.0, self._silence_s / 10))
        os._exit(ABANDONED)


def serve(make: MakeTrainer, arguments: list[str]) -> None:
    """Serve until the supervisor is done; does not return.

    Args:
        make: builds the trainer.
        arguments: the descriptor for answers, the supervisor's process id, and the silence in
            seconds after which it counts as gone.
    """
    answers, parent, silence_s = int(arguments[0]), int(arguments[1]), float(arguments[2])
    _die_with(parent)
    os.umask(0o077)
    _log_to_standard_error()
    sys.excepthook = lambda _kind, error, _frames: _put_in_log(error)
    threading.excepthook = _of_a_thread
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # the supervisor's to answer; schedulers send SIGTERM to every process of a job
        signal.signal(ignored, signal.SIG_IGN)
    wire = Wire(answers, silence_s)
    wire.listen()
    setup = wire.orders.get()
    assert isinstance(setup, TrainerSetup)
    try:
        trainer = make(setup, wire.send)
        wire.send(trainer.ready())
    except Exception as error:
        wire.send(_failure(error))
        _end(UNUSABLE)
    while True:
        order = wire.orders.get()
        assert isinstance(order, TrialOrder)
        wire.begin()
        failpoint("trainer.order")
        answer = _train(trainer, setup.spec, order, wire)
        wire.send(answer)
        if isinstance(answer, Failed) and answer.cause in ("error", "device"):
            _end(UNUSABLE)  # what it left on the device is not known


def _train(trainer: AnyTrainer, spec: StudySpec, order: TrialOrder, wire: Wire) -> Ended | Failed:
    try:
        return Ended(
            trainer.run_trial(spec, order.hyperparameters, report=wire.report, run=order.run)
        )
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> Failed:
    """What may be told about an error: ours in full, of others the type and where it was."""
    if isinstance(error, TrialFailed):
        return Failed(error.cause, error.message, error.hint, error.code)
    if isinstance(error, UsageError):
        return Failed("model", error.message, error.hint, error.code, "usage")
    if isinstance(error, MachineError):
        return Failed("device", error.message, error.hint, error.code, "machine")
    if isinstance(error, CriteriaError):
        return Failed("error", error.message, error.hint, error.code)
    if isinstance(error, OSError) and error.errno in _DISK:
        reason = os.strerror(error.errno).lower()
        return Failed(
            "disk", f"results cannot be written: {reason}", code="machine.disk", kind="machine"
        )
    _put_in_log(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(last.filename)} line {last.lineno}"  # noqa: PTH119
    return Failed("error", f"{type(error).__name__} in {place}, see the log", code="trial.error")


def _die_with(parent: int) -> None:
    """Be killed when the supervisor ends, however it ends (Linux, `prctl`)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # it ended before the line above


def _log_to_standard_error() -> None:
    """Our own lines, which the supervisor has put into the study's log."""
    handler = logging.StreamHandler()
    handler.setFormatter(log_formatter())
    logger = logging.getLogger("criteria_cli")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _put_in_log(error: BaseException) -> None:
    with contextlib.suppress(OSError):  # a full disk stops the log, not the study
        sys.stderr.write(bare_traceback(error))
        sys.stderr.flush()


def _of_a_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None:
        _put_in_log(arguments.exc_value)


def _since_boot() -> float:
    """Seconds, the time that a machine sleeps included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _end(status: int) -> None:
    sys.stderr.flush()
    os._exit(status)  # not through the interpreter's end: a thread waits on standard input


def _make(setup: TrainerSetup, learn: Learn) -> AnyTrainer:
    from criteria_cli.training.trainer import Trainer

    return Trainer(setup, learn)


if __name__ == "__main__":
    serve(_make, sys.argv[1:])
