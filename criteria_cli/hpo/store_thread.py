"""One thread that talks to the store, so that nothing else ever waits for it unasked.

Jobs are done in order, each in a transaction of its own. While the store is away, busy or full the
first job is tried again, with growing pauses, and the others wait behind it: nothing is lost and
nothing overtakes. A job may therefore run more than once, and must change nothing the second time.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from criteria_cli.errors import StoreError
from criteria_cli.hpo.optuna_store import OpenStudy
from criteria_cli.hpo.trouble import as_told, cause_of, is_passing, store_error
from criteria_cli.hpo.url import StoreUrl

_log = logging.getLogger(__name__)

PATIENCE_S = 1800.0
"""How long the store may be away before a worker gives up, with everything saved."""
SLOW_S = 15.0
"""A statement that takes longer counts as no answer."""
_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)

T = TypeVar("T")
Work = Callable[[sa.Connection, OpenStudy], T]


@dataclass
class _Job:
    work: Work[Any]
    future: Future[Any]


class StoreThread:
    """Runs jobs against one study's store.

    Args:
        away: called with a cause when the store stops answering, from this thread.
        back: called with (seconds away, jobs that waited) when it answers again.
    """

    def __init__(
        self,
        url: StoreUrl,
        engine: sa.Engine,
        opened: OpenStudy,
        *,
        away: Callable[[str], None],
        back: Callable[[float, int], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._url = url
        self._engine = engine
        self._opened = opened
        self._tell_away, self._tell_back = away, back
        self._patience_s = patience_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._away_since: float | None = None
        self._began: float | None = None
        self._trouble_at = -1e9
        self._announced = False
        self._gone: StoreError | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True, name="store")
        self._thread.start()

    def submit(self, work: Work[T]) -> Future[T]:
        """Have `work` done in a transaction, after everything submitted before."""
        future: Future[T] = Future()
        self._jobs.put(_Job(work, future))
        return future

    @property
    def away_s(self) -> float | None:
        """For how long the store has not answered, or None."""
        now = time.monotonic()
        if self._away_since is not None:
            return now - self._away_since
        began = self._began
        return now - began if began is not None and now - began > SLOW_S else None

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return self._jobs.qsize() + (self._away_since is not None)

    def quiet_for(self, seconds: float) -> bool:
        """Whether the store has answered every statement for so long."""
        return self.away_s is None and time.monotonic() - self._trouble_at > seconds

    def stop(self, timeout_s: float) -> bool:
        """Do what is left within `timeout_s`, then end; whether everything was done."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        done = not self._thread.is_alive()
        self._stopping.set()
        return done

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._stopping.is_set():
                return
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                job.future.set_result(self._patiently(job.work))
            except BaseException as error:
                job.future.set_exception(error)

    def _patiently(self, work: Work[T]) -> T:
        tries = 0
        while True:
            if self._gone is not None:
                raise self._gone
            self._began = began = time.monotonic()
            try:
                with self._engine.begin() as connection:
                    result = work(connection, self._opened)
            except Exception as error:
                self._opened.rolled_back()
                if not is_passing(error):
                    told = as_told(error, self._url)
                    if told is None:
                        raise
                    raise told from error
                self._failed(error)
            else:
                self._opened.committed()
                if time.monotonic() - began > SLOW_S:
                    self._trouble_at = time.monotonic()
                self._answered()
                return result
            finally:
                self._began = None
            pause = _PAUSES[min(tries, len(_PAUSES) - 1)]
            tries += 1
            if self._stopping.wait(pause * (0.5 + random.random())):  # noqa: S311
                raise StoreError("storage: stopped while waiting for the store", code="store.away")

    def _failed(self, error: BaseException) -> None:
        now = time.monotonic()
        self._trouble_at = now
        _log.info("a statement failed: %s", cause_of(error))
        if self._away_since is None:
            self._away_since = now
            return  # one hiccup is not worth a word
        if now - self._away_since > self._patience_s:
            self._gone = store_error(error, self._url)
            raise self._gone from error
        if not self._announced:
            self._announced = True
            self._tell_away(cause_of(error))

    def _answered(self) -> None:
        if self._away_since is None:
            return
        seconds = time.monotonic() - self._away_since
        self._trouble_at = time.monotonic()
        self._away_since = None
        if self._announced:
            self._announced = False
            self._tell_back(seconds, self._jobs.qsize())
