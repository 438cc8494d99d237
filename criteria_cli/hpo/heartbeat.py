"""Signs of life: to the store for leases and `status`, and to the trainers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from criteria_cli.hpo import leases, rows
from criteria_cli.hpo.budget import is_over
from criteria_cli.hpo.facts import StudyStatus
from criteria_cli.hpo.timings import Timings
from criteria_cli.hpo.trouble import cause_of, is_passing
from criteria_cli.hpo.worker import Worker

_log = logging.getLogger(__name__)


class Heartbeat(threading.Thread):
    """Renews the leases of this command's workers, on a connection of its own.

    It never dies of an error of the store: it tries again, and the lease tells who was too late.
    Where trying again cannot help, as in a damaged study, it has the workers save and end, and
    renews their leases until they have.

    Args:
        read: reads the study for the display; called between beats.
        give_up: has the workers save and end.
    """

    def __init__(
        self,
        engine: sa.Engine,
        workers: Sequence[Worker],
        timings: Timings,
        read: Callable[[], StudyStatus],
        give_up: Callable[[], None],
    ) -> None:
        super().__init__(daemon=True, name="heartbeat")
        self._engine = engine
        self._workers = workers
        self._timings = timings
        self._read = read
        self._give_up = give_up
        self._ended = threading.Event()
        self.study: StudyStatus | None = None
        """The latest view of the study."""
        self.error: Exception | None = None
        """Why it had the workers end."""

    def end(self) -> None:
        self._ended.set()

    def run(self) -> None:
        beat_at = view_at = 0.0
        while not self._ended.is_set():
            now = time.monotonic()
            if now >= beat_at:
                beat_at = now + (self._timings.beat if self._safely(self._beat) else 1.0)
            if now >= view_at:
                if self.error is None:
                    self._safely(self._view)
                took = time.monotonic() - now
                view_at = time.monotonic() + max(self._timings.view, 20 * took)
            self._ended.wait(max(0.05, min(beat_at, view_at) - time.monotonic()))

    def _safely(self, work: Callable[[], Any]) -> bool:
        try:
            work()
        except Exception as error:
            if is_passing(error):
                _log.info("a sign of life did not reach the store: %s", cause_of(error))
            elif self.error is None:
                self.error = error
                self._give_up()
            return False
        return True

    def _beat(self) -> None:
        with self._engine.begin() as connection:
            for worker in self._workers:
                if not worker.is_alive():
                    continue
                view, lease = worker.live.view(), worker.live.lease
                rows.beat(
                    connection,
                    worker.plan.row.id,
                    state=view.state,
                    progress=worker.live.progress(),
                )
                if lease is None:
                    continue
                if not leases.renew(connection, lease, seconds=self._timings.lease):
                    worker.live.lose(lease)
                elif is_over(connection, lease):
                    worker.live.give_back(lease)

    def _view(self) -> None:
        self.study = self._read()


class Pulse(threading.Thread):
    """Tells the trainers that we live, and waits for nothing while doing so."""

    def __init__(self, workers: Sequence[Worker], every_s: float) -> None:
        super().__init__(daemon=True, name="pulse")
        self._workers = workers
        self._every_s = every_s
        self._ended = threading.Event()

    def end(self) -> None:
        self._ended.set()

    def run(self) -> None:
        while not self._ended.wait(self._every_s):
            for worker in self._workers:
                trainer = worker.trainer
                if trainer is not None:
                    trainer.ping()
