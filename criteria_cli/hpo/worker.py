"""One worker: claim a trial, have it trained, tell how it ended, until there is none left.

1. The trainer is ready before the first claim: a machine that cannot train touches no trial.
2. Claim, count, sample and owner are one transaction (`claims`).
3. Reports carry the lease's token (`reports`); who lost the lease stops and takes another trial.
4. A fold is on disk before it is reported, and told before the trial leaves us (`endings`).
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from criteria_cli.errors import CriteriaError, MachineError, StoreError, UsageError, WorkError
from criteria_cli.failpoints import failpoint
from criteria_cli.hpo import rows
from criteria_cli.hpo.claims import Claim, Claimer, Nothing
from criteria_cli.hpo.endings import Ending, finish
from criteria_cli.hpo.events import (
    TrainerRestarted,
    TrialEnded,
    WorkerReady,
    WorkerStarting,
    WorkerStopped,
)
from criteria_cli.hpo.leases import Lease, LeaseLost, recently_started
from criteria_cli.hpo.optuna_store import OpenStudy
from criteria_cli.hpo.optuna_tables import best_trial
from criteria_cli.hpo.presence import Presence, is_dead
from criteria_cli.hpo.rows import WorkerRow
from criteria_cli.hpo.runs_folder import folds_on_disk
from criteria_cli.hpo.shared import Live, Shared, utc
from criteria_cli.hpo.store_thread import Work
from criteria_cli.hpo.trainer_process import Launch, TrainerProcess
from criteria_cli.hpo.trainer_start import wait_until_ready
from criteria_cli.hpo.trial_run import TrialWatch
from criteria_cli.study.attempts import Attempt
from criteria_cli.study.messages import Ready, TrainerSetup

_log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 3
"""After so many a worker stops: the machine is more likely at fault than the trials."""
_TICK_S = 0.2

T = TypeVar("T")


class _Leaving(Exception):
    """The worker is to end; `reason` is a word of `WorkerStopped`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class WorkerPlan:
    """What one worker runs with."""

    row: WorkerRow
    name: str
    launch: Launch
    setup: TrainerSetup


class Worker(threading.Thread):
    """A worker of this command, with a trainer of its own. Its trainer dies with this thread."""

    def __init__(self, plan: WorkerPlan, shared: Shared, live: Live) -> None:
        super().__init__(daemon=True, name=plan.name)
        self.plan = plan
        self.live = live
        self.error: BaseException | None = None
        self.ended = ""
        """Why it ended without an error."""
        self.trainer: TrainerProcess | None = None
        self._shared = shared
        self._presence = Presence(shared.runs, plan.row.id)
        self._failures = 0

    def run(self) -> None:
        reason, message = "", ""
        try:
            self._work()
        except _Leaving as leaving:
            reason = self.ended = leaving.reason
        except CriteriaError as error:
            self.error = error
            reason, message = _stop_word(error), error.message
        except BaseException as error:
            self.error = error
            reason, message = "bug", type(error).__name__
        finally:
            self._end()
        self._shared.notify(WorkerStopped(utc(), self.plan.name, reason=reason, message=message))

    def _work(self) -> None:
        self._start_trainer()
        claimer = self._claimer()
        while True:
            self._leave_if_told()
            self._living_trainer()
            self.live.set(state="idle")
            found = self._ask(claimer.claim)
            failpoint("claim.after")
            if isinstance(found, Nothing):
                self._wait_or_leave(found)
                continue
            self._one(found)

    # -- the trainer -------------------------------------------------------------------------

    def _start_trainer(self) -> None:
        """Start a trainer and wait until it is ready.

        Raises:
            CriteriaError: the data, model or device cannot be used.
        """
        self.live.set(state="load")
        device, card = self.plan.setup.device, self.live.view().device_name
        self._shared.notify(WorkerStarting(utc(), self.plan.name, device=device, device_name=card))
        began, ready = time.monotonic(), None
        while ready is None:
            self._leave_if_told()
            self.trainer = TrainerProcess(self.plan.launch, holds=self._presence.descriptor)
            self.trainer.send(self.plan.setup)
            ready = wait_until_ready(self.trainer, self._shared)
        self._check(ready)
        self.live.set(device_name=ready.device, state="idle")
        self._shared.notify(
            WorkerReady(
                utc(),
                self.plan.name,
                device=device,
                device_name=ready.device,
                precision=ready.precision,
                pairs=ready.pairs,
                cut_posts=ready.cut_posts,
                unread=ready.unread,
                seconds=time.monotonic() - began,
            )
        )

    def _living_trainer(self) -> TrainerProcess:
        """The trainer, another one where it has ended: an idle one's death is no trial's fault."""
        if self.trainer is not None and (died := self.trainer.ended()) is not None:
            self._drop_trainer(died.cause, died.message)
        if self.trainer is None:
            self._start_trainer()
        assert self.trainer is not None
        return self.trainer

    def _check(self, ready: Ready) -> None:
        """Raise unless the trainer computes what the study is made of."""
        row = self.plan.row
        if ready.data_sha256 not in ("", self._shared.data_sha256):
            raise UsageError(
                "the data have changed since this command began", code="study.data_changed"
            )
        self._ask(
            lambda c, _: rows.ready(c, row, device_name=ready.device, precision=ready.precision)
        )

    def _drop_trainer(self, cause: str, message: str) -> None:
        if self.trainer is not None:
            self.trainer.kill()
            self.trainer = None
            self._shared.notify(
                TrainerRestarted(utc(), self.plan.name, cause=cause, message=message)
            )

    # -- one trial ---------------------------------------------------------------------------

    def _one(self, claim: Claim) -> None:
        self.live.begin(claim.lease, attempt=claim.attempt)
        try:
            if claim.decided is not None:  # stopped by the pruner before its worker died
                # its trainer may have gone on before the answer came, and finished another fold
                folder = self._shared.runs / f"trial-{claim.home}"
                if folder.exists():
                    Attempt(folder, claim.lease.trial, claim.lease.token).begin()
                done = folds_on_disk(folder)
                done |= {fold.fold: fold for fold in claim.folds}
                folds = tuple(done[number] for number in sorted(done))
                self._tell(claim.lease, Ending("pruned", folds), claim.decided)
                return
            # it may have died while the store was asked, which may take its time
            watch = TrialWatch(self._shared, self._living_trainer(), claim, self.live)
            ending = watch.run()
            if ending is None:
                self._lost(claim.lease)
            else:
                self._ended(claim.lease, ending, watch)
            if watch.died is not None:
                self._drop_trainer(watch.died.cause, watch.died.message)
            elif watch.failure is not None and watch.failure.cause in ("error", "device"):
                self._drop_trainer(watch.failure.cause, watch.failure.message)
        finally:
            self.live.end()

    def _ended(self, lease: Lease, ending: Ending, watch: TrialWatch) -> None:
        failure = watch.failure
        if failure is not None and (
            failure.kind == "machine" or failure.cause in ("disk", "device")
        ):
            self._tell(lease, Ending("yielded", ending.folds), "")
            place = f" (`{self._shared.runs.parent.name}/{self._shared.runs.name}`)"
            raise MachineError(
                failure.message + (place if failure.cause == "disk" else ""),
                hint=failure.hint or "the trial goes on when the same command runs again",
                code=failure.code or "machine",
            )
        became = self._tell(lease, ending, watch.reason)
        if became == "yielded" and ending.outcome != "yielded":
            return  # the budget was lowered
        if became in ("failed", "retried"):
            self._failures += 1
            if self._failures >= FAILURES_IN_A_ROW:
                raise WorkError(
                    f"{self._failures} trials in a row failed here, the last with "
                    f"`{ending.cause}`: {ending.message}",
                    hint="other machines go on; see the log, then run the same command again",
                    code="work.breaker",
                )
        elif became in ("complete", "pruned"):
            self._failures = 0
        elif became == "yielded" and watch.superseded:  # and yet the store calls it ours
            place = f"{self._shared.runs.name}/trial-{lease.trial}"
            raise StoreError(
                f"storage: `{place}` was written by a later attempt than the store knows of",
                hint="if the store is a backup, remove that folder to train the trial anew",
                code="store.behind",
            )

    def _tell(self, lease: Lease, ending: Ending, reason: str) -> str:
        """Record how the trial ended; the word for what it became."""
        failpoint("result.before_tell")
        view, seconds = self.live.view(), self.live.seconds

        def work(connection: sa.Connection, opened: OpenStudy) -> tuple[str, bool]:
            became = finish(connection, opened, lease, ending)
            best = became == "complete" and best_trial(connection, lease.study) == lease.trial
            return became, best

        try:
            became, best = self._ask(work, patient=True)
        except LeaseLost:
            self._lost(lease)
            return "lost"
        self._shared.notify(
            TrialEnded(
                utc(),
                self.plan.name,
                trial=lease.trial,
                state=became,
                score=ending.score,
                seconds=seconds,
                fold=view.fold,
                epoch=view.epoch,
                reason=reason or ending.message,
                cause=ending.cause,
                best=best,
            )
        )
        return became

    def _lost(self, lease: Lease) -> None:
        self._shared.notify(
            TrialEnded(
                utc(),
                self.plan.name,
                trial=lease.trial,
                state="lost",
                seconds=self.live.seconds,
                reason="its lease ran out, another worker goes on with it",
            )
        )

    # -- the store ---------------------------------------------------------------------------

    def _claimer(self) -> Claimer:
        shared, runs = self._shared, self._shared.runs
        lease_s = shared.timings.lease

        def may_judge(connection: sa.Connection) -> bool:
            return shared.store.quiet_for(lease_s) and not recently_started(connection, lease_s)

        return Claimer(
            spec=shared.spec,
            worker=self.plan.row.id,
            lease_s=lease_s,
            is_dead=lambda worker: worker != self.plan.row.id and is_dead(runs, worker),
            may_judge=may_judge,
        )

    def _ask(self, work: Work[T], *, patient: bool = False) -> T:
        """Have something done in the store and wait for it.

        Args:
            patient: wait on for a while after a signal: what is to be told is worth it.
        """
        future = self._shared.store.submit(work)
        grace_s = 10.0 if patient else 2.0
        while True:
            try:
                return future.result(_TICK_S)
            except NotYet:
                if future.done():
                    raise  # its own, not ours
            stop = self._shared.stop
            if stop.hurrying.is_set():
                raise _Leaving("signal")
            if stop.draining.is_set():
                grace_s -= _TICK_S
                if grace_s < 0 and (future.cancel() or patient):
                    raise _Leaving("signal")

    def _leave_if_told(self) -> None:
        if self._shared.stop.draining.is_set():
            raise _Leaving("signal")
        if self._shared.stop.out_of_time():
            raise _Leaving("hours")

    def _wait_or_leave(self, nothing: Nothing) -> None:
        if nothing.why == "finished":
            raise _Leaving("done")
        if nothing.why == "paused":
            raise WorkError(
                f"study `{self._shared.spec.name}` is paused: its first trials all failed with "
                f"`{nothing.cause}`",
                hint="see `criteria status` for the reasons; running the same command takes it up",
                code="work.paused",
            )
        self._shared.stop.draining.wait(self._shared.timings.poll)

    def _end(self) -> None:
        if self.trainer is not None:
            if self._shared.stop.hurrying.is_set():
                self.trainer.kill()
            else:
                self.trainer.close()
        self.live.end()
        worker = self.plan.row.id
        future = self._shared.store.submit(lambda c, _: rows.leave(c, worker))
        try:
            future.exception(1.0 if self._shared.stop.hurrying.is_set() else 10.0)
        except NotYet:
            _log.info("the store did not hear that worker %s left", self.plan.name)
        finally:
            self._presence.end()


def _stop_word(error: CriteriaError) -> str:
    if isinstance(error, StoreError):
        return "store"
    if isinstance(error, WorkError):
        return "paused" if error.code == "work.paused" else "breaker"
    return "device" if isinstance(error, MachineError) else "refused"
