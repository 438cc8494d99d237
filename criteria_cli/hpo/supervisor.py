"""`criteria hpo` itself: prepares the store, starts workers, answers signals, shows what happens.

Light on purpose: no torch. It may be killed at any moment; trainers die with it, and its trials are
taken over by whoever comes next.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import optuna
import sqlalchemy as sa

from criteria_cli.errors import CriteriaError, Saved, StoreError
from criteria_cli.hpo import rows, status
from criteria_cli.hpo.claims import finish_orphans
from criteria_cli.hpo.device_locks import Card, Held, holding, take_devices
from criteria_cli.hpo.engine import make_engine
from criteria_cli.hpo.events import (
    HpoEvent,
    LiveWorker,
    Observer,
    SignalSeen,
    StoreAway,
    StoreBack,
    StudyView,
)
from criteria_cli.hpo.facts import StudyStatus
from criteria_cli.hpo.heartbeat import Heartbeat, Pulse
from criteria_cli.hpo.identity import Identity, versions_here
from criteria_cli.hpo.options import SearchOptions, SearchResult
from criteria_cli.hpo.optuna_store import OpenStudy
from criteria_cli.hpo.prepare import CROWDED_S, Budget, prepare
from criteria_cli.hpo.presence import is_dead
from criteria_cli.hpo.pruning import optuna_pruner
from criteria_cli.hpo.rows import WorkerRow
from criteria_cli.hpo.runs_folder import claim_folder
from criteria_cli.hpo.shared import Live, Shared, Stop, utc
from criteria_cli.hpo.signals import Caught, noting_signals
from criteria_cli.hpo.store_thread import StoreThread, Work
from criteria_cli.hpo.study_log import logging_to
from criteria_cli.hpo.timings import timings
from criteria_cli.hpo.trainer_process import Launch
from criteria_cli.hpo.trouble import as_told, is_damage, store_error, trusting
from criteria_cli.hpo.url import StoreUrl, read_url
from criteria_cli.hpo.worker import Worker, WorkerPlan
from criteria_cli.study.files import Definition
from criteria_cli.study.messages import TrainerSetup
from criteria_cli.study.spec import StudySpec

_log = logging.getLogger(__name__)

T = TypeVar("T")

_TICK_S = 0.2
_VIEW_S = 1.0


@dataclass(frozen=True)
class Machine:
    """What this machine has and how its trainers are started; `wiring` knows."""

    cards: Sequence[Card]
    command: Sequence[str]
    environment: Callable[[int], Mapping[str, str]]
    """Variables of a trainer with so many threads."""
    threads: Callable[[int], int]
    """Threads for each of so many trainers."""
    data_sha256: str
    pairs: int


def search(
    definition: Definition, options: SearchOptions, observer: Observer, machine: Machine
) -> SearchResult:
    """See `wiring.search`."""
    spec = _named(definition.spec, options.name)
    url = read_url(options.storage)
    os.umask(0o077)
    folder = options.runs.absolute() / spec.name
    identity = Identity(spec, machine.data_sha256, machine.pairs, versions_here())
    devices = take_devices(options.device, options.workers, machine.cards)
    with holding(devices):
        known = claim_folder(folder)
        budget = Budget(options.trials, options.confirm)
        uid = prepare(url, identity, budget=budget, folder=known)
        known.keep(uid)
        with logging_to(folder / "hpo.log") as log, noting_signals() as caught:
            run = _Run(
                definition, spec, uid, options, url, folder, machine, devices, observer, caught
            )
            try:
                return SearchResult(run.until_done(), run.ended, log)
            finally:
                run.close()


def _named(spec: StudySpec, name: str | None) -> StudySpec:
    return spec if name is None or name == spec.name else spec.model_copy(update={"name": name})


class _Run:
    """The threads of one command, and its main loop."""

    def __init__(
        self,
        definition: Definition,
        spec: StudySpec,
        uid: str,
        options: SearchOptions,
        url: StoreUrl,
        folder: Path,
        machine: Machine,
        devices: Sequence[Held],
        observer: Observer,
        caught: Caught,
    ) -> None:
        self.ended: Literal["finished", "hours"] = "finished"
        self._spec, self._uid, self._url, self._folder = spec, uid, url, folder
        self._machine, self._definition = machine, definition
        self._observer, self._caught = observer, caught
        self._timings = timings()
        self._began = time.monotonic()
        self._events: queue.SimpleQueue[HpoEvent] = queue.SimpleQueue()
        self._stop = Stop()
        if options.hours is not None:
            self._stop.over_at = self._began + options.hours * 3600
        self._engine = make_engine(url, name=f"criteria {spec.name}")
        self._store = StoreThread(
            url,
            self._engine,
            OpenStudy(self._engine, spec.name, optuna_pruner(spec)),
            away=lambda cause: self._notify(StoreAway(utc(), "", cause)),
            back=lambda seconds, sent: self._notify(StoreBack(utc(), "", seconds, sent)),
            patience_s=self._timings.patience,
        )
        self._workers = self._register(devices)
        self._heartbeat = Heartbeat(
            self._engine, self._workers, self._timings, self._read_study, self._stop.drain
        )
        self._pulse = Pulse(self._workers, self._timings.ping)

    def until_done(self) -> StudyStatus:
        """Run the workers until the last has ended; the study then.

        Raises:
            CriteriaError: as `wiring.search`.
            KeyboardInterrupt: the second Ctrl-C.
        """
        for thread in (*self._workers, self._heartbeat, self._pulse):
            thread.start()
        view_at = 0.0
        while any(worker.is_alive() for worker in self._workers):
            self._look_at_signals()
            with contextlib.suppress(queue.Empty):
                self._observer(self._events.get(timeout=_TICK_S))
            if time.monotonic() >= view_at and self._heartbeat.study is not None:
                view_at = time.monotonic() + _VIEW_S
                self._observer(self._view(self._heartbeat.study))
        self._drain_events()
        return self._conclude()

    def close(self) -> None:
        self._heartbeat.end()
        self._pulse.end()
        self._store.stop(1.0)
        if self._heartbeat.ident is not None:
            self._heartbeat.join(2.0)
        self._engine.dispose()

    # -- starting ----------------------------------------------------------------------------

    def _register(self, devices: Sequence[Held]) -> list[Worker]:
        probes = self._now(lambda c, _: rows.known_probes(c))
        orphans = self._now(finish_orphans)
        if orphans:
            _log.warning("%d running trials of another program were failed", orphans)
        return [self._worker(held, len(devices), probes) for held in devices]

    def _worker(self, held: Held, team: int, probes: Mapping[str, object]) -> Worker:
        row = WorkerRow(uuid.uuid4().hex, self._spec.name, held.device, versions_here())
        wanted, stale_s = rows.wanted_name(held.device), 2 * self._timings.lease
        shared_store = not self._url.is_sqlite
        name = self._now(
            lambda c, _: rows.register(
                c,
                row,
                name=wanted,
                uid=self._uid,
                stale_s=stale_s,
                shared=shared_store,
                is_dead=lambda worker: is_dead(self._folder, worker),
            )
        )
        threads = self._machine.threads(team)
        launch = Launch(
            command=self._machine.command,
            environment=self._machine.environment(threads),
            log=self._folder / "hpo.log",
            silence_s=self._timings.silence,
            progress_s=self._timings.progress,
        )
        setup = TrainerSetup(
            spec=self._spec,
            base=self._definition.base.absolute(),
            directory=self._folder,
            device=held.device,
            threads=threads,
            memory=dict(probes) or None,
        )
        live = Live(
            LiveWorker(
                name,
                held.device,
                held.name,
                "start",
                folds=self._spec.validation.fold_count,
                epochs=self._spec.training.epochs,
            )
        )
        shared = Shared(
            self._spec,
            self._folder,
            self._store,
            self._timings,
            self._stop,
            self._notify,
            self._machine.data_sha256,
        )
        return Worker(WorkerPlan(row, name, launch, setup), shared, live)

    def _now(self, work: Work[T]) -> T:
        try:
            return self._store.submit(work).result(CROWDED_S)
        except TimeoutError:
            raise StoreError(f"storage: `{self._url.label}` does not answer") from None
        except (sa.exc.SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            raise store_error(error, self._url) from error

    # -- while it runs -----------------------------------------------------------------------

    def _notify(self, event: HpoEvent) -> None:
        _log.info("%s", event)
        self._events.put(event)

    def _look_at_signals(self) -> None:
        caught = self._caught
        if caught.first and not self._stop.draining.is_set():
            self._notify(SignalSeen(utc(), "", caught.first))
            self._stop.drain()
        if caught.interrupts > 1 and not self._stop.hurrying.is_set():
            self._stop.hurrying.set()

    def _drain_events(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._observer(self._events.get_nowait())

    def _view(self, study: StudyStatus) -> StudyView:
        return StudyView(
            study=study,
            workers=tuple(worker.live.view() for worker in self._workers),
            elapsed_s=time.monotonic() - self._began,
            store_away_s=self._store.away_s,
            spooled=self._store.waiting,
        )

    def _read_study(self) -> StudyStatus:
        with trusting(self._spec.name):
            if self._url.is_sqlite:  # ours would lock the file
                return status.read_study_at(self._url, self._spec.name, self._timings.lease)
            with self._engine.begin() as connection:
                return status.status_of(connection, self._spec.name, lease_s=self._timings.lease)

    # -- the end -----------------------------------------------------------------------------

    def _conclude(self) -> StudyStatus:
        if self._stop.hurrying.is_set():
            raise KeyboardInterrupt
        errors = [worker.error for worker in self._workers if worker.error is not None]
        if self._heartbeat.error is not None:
            errors.insert(0, as_told(self._heartbeat.error, self._url) or self._heartbeat.error)
        for error in errors:
            if is_damage(error):  # which explains whatever else went wrong
                raise error
        for error in errors:
            if not isinstance(error, CriteriaError):
                raise error
        if self._caught.first and not any(isinstance(error, StoreError) for error in errors):
            raise Saved(
                f"stopped by {self._caught.first}, everything is saved",
                hint="run the same command again to go on",
                code="saved.signal",
            )
        reasons = {worker.ended for worker in self._workers}
        if errors and not reasons & {"done"}:
            raise errors[0]
        if "hours" in reasons:
            self.ended = "hours"
        self._heartbeat.end()
        return self._last_look()

    def _last_look(self) -> StudyStatus:
        try:
            return self._read_study()
        except (sa.exc.SQLAlchemyError, StoreError) as error:
            if self._heartbeat.study is None or is_damage(error):
                raise
            return self._heartbeat.study
