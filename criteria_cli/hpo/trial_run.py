"""One trial on one trainer: its events go to the store, the pruner's answers come back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import replace
from typing import Any

from criteria_cli.errors import StoreError
from criteria_cli.hpo import pruning, rows
from criteria_cli.hpo.claims import Claim
from criteria_cli.hpo.endings import Ending
from criteria_cli.hpo.events import EpochEnded, FoldEnded, TrialStarted
from criteria_cli.hpo.leases import LeaseLost
from criteria_cli.hpo.reports import record
from criteria_cli.hpo.search import seed_of
from criteria_cli.hpo.shared import Live, Shared, utc
from criteria_cli.hpo.trainer_process import Died, TrainerProcess
from criteria_cli.study.messages import Ended, Failed, Learned, Ready, Reply, Said, TrialOrder
from criteria_cli.study.trial import (
    EpochReport,
    FoldReport,
    Outcome,
    Progress,
    TrialRun,
    Verdict,
)

_TICK_S = 0.2


class TrialWatch:
    """Watches over one trial until it ends, however it ends."""

    def __init__(self, shared: Shared, trainer: TrainerProcess, claim: Claim, live: Live) -> None:
        self._shared = shared
        self._trainer = trainer
        self._claim = claim
        self._live = live
        self._spec = shared.spec
        self._hyperparameters = shared.spec.hyperparameters(claim.params)
        self._folds: dict[int, FoldReport] = {fold.fold: fold for fold in claim.folds}
        self._late: list[Future[pruning.Decision]] = []
        self._told: Verdict | None = None
        self.reason = ""
        """Why the pruner stopped it."""
        self.failure: Failed | None = None
        """What the trainer said, if it could not do it."""
        self.died: Died | None = None
        self.superseded = False
        """Whether the trainer gave up unasked: a later attempt has the trial's folder."""

    def run(self) -> Ending | None:
        """Train the trial; how it ended, or None if it became somebody else's.

        Raises:
            StoreError: the store has been away for too long; the trial is saved.
        """
        self._order()
        while True:
            self._press_on()
            answer = self._trainer.hear(_TICK_S)
            match answer:
                case None:
                    if self._trainer.is_stuck():
                        return self._death(self._trainer.stop_stuck())
                case Died():
                    return self._death(answer)
                case Said(Progress() as progress):
                    self._show(progress)
                case Said(event, number):
                    assert not isinstance(event, Progress)
                    self._reported(event, number)
                case Ended(outcome):
                    return self._ended(outcome)
                case Failed():
                    self.failure = answer
                    return Ending(
                        "failed", self._in_order(), cause=answer.cause, message=answer.message
                    )
                case Learned(key, memory):
                    self._keep(key, memory)
                case Ready():
                    continue

    def _keep(self, key: str, memory: Mapping[str, Any]) -> None:
        """Let other workers begin with what this one learned about its device."""
        self._shared.store.submit(lambda c, _: rows.keep_probe(c, key, memory))

    def _order(self) -> None:
        number, training = self._claim.lease.trial, self._hyperparameters.training
        home = self._claim.home
        self._live.set(epochs=training.epochs, next_cut=self._next_cut(0, None), state="load")
        self._shared.notify(
            TrialStarted(
                utc(),
                self._live.view().name,
                trial=number,
                attempt=self._claim.attempt,
                params=self._claim.params,
                adopted_from=self._claim.adopted_from,
                folds_done=len(self._folds),
                confirms=self._claim.source,
            )
        )
        run = TrialRun(
            number,
            seed_of(self._spec, home, "training"),
            self._shared.runs / f"trial-{home}",
            self._claim.lease.token,
            self._in_order(),
        )
        self._trainer.expect()
        self._trainer.send(TrialOrder(self._hyperparameters, run))

    def _press_on(self) -> None:
        """Tell the trainer what cannot wait for its next report."""
        wanted: Verdict | None = None
        if self._live.lost.is_set():
            wanted = Verdict.YIELD  # the result on disk is its new worker's to write
        elif self._stopped_late():
            wanted = Verdict.STOP
        elif self._shared.stop.draining.is_set() or self._live.over.is_set():
            wanted = Verdict.YIELD
        if wanted is not None and self._told is None:
            self._told = wanted
            self._live.set(state="drain")
            self._trainer.say(wanted)
        stop = self._shared.stop
        if stop.hurrying.is_set() or self._overdue():
            self._trainer.kill()

    def _overdue(self) -> bool:
        """Whether saving takes longer than we have."""
        stop = self._shared.stop
        return stop.draining.is_set() and time.monotonic() - stop.began > self._shared.timings.drain

    def _stopped_late(self) -> bool:
        """Whether a decision that the trainer did not wait for says stop."""
        waiting, stop = [], False
        for future in self._late:
            if future.done():
                stop = self._decided(future) is Verdict.STOP or stop
            else:
                waiting.append(future)
        self._late = waiting
        return stop

    def _reported(self, event: EpochReport | FoldReport, number: int | None) -> None:
        self._note(event)
        lease, spec = self._claim.lease, self._spec
        judged = self._claim.source is None
        future = self._shared.store.submit(
            lambda c, o: record(c, o, spec, lease, event, judged=judged)
        )
        away = self._shared.store.away_s is not None
        try:
            future.exception(timeout=0.0 if away else self._shared.timings.answer)
        except NotYet:
            self._late.append(future)
            verdict = Verdict.CONTINUE
        else:
            verdict = self._decided(future)
        if verdict is Verdict.CONTINUE and self._told is not None:
            verdict = self._told
        self._trainer.send(Reply(verdict, number))

    def _decided(self, future: Future[pruning.Decision]) -> Verdict:
        try:
            decision = future.result()
        except LeaseLost:
            self._live.lost.set()
            return Verdict.YIELD
        except StoreError:
            self._shared.stop.drain()
            return Verdict.YIELD
        if not decision.stop:
            return Verdict.CONTINUE
        self.reason = decision.words
        return Verdict.STOP

    def _ended(self, outcome: Outcome) -> Ending | None:
        for fold in outcome.folds:
            self._folds[fold.fold] = fold
        if self._live.lost.is_set():
            return None
        asked = self._told is Verdict.YIELD or self._shared.stop.draining.is_set()
        self.superseded = outcome.state == "yielded" and not asked
        complete = len(self._folds) == self._spec.validation.fold_count
        state = "complete" if complete else outcome.state
        assert state != "complete" or complete, "the trainer left folds out"
        return Ending(state, self._in_order())

    def _death(self, died: Died) -> Ending | None:
        self.died = died
        if self._live.lost.is_set():
            return None
        stopping = self._shared.stop.draining.is_set()
        if died.cause == "abandoned" or stopping:
            return Ending("yielded", self._in_order())
        return Ending("failed", self._in_order(), cause=died.cause, message=died.message)

    def _in_order(self) -> tuple[FoldReport, ...]:
        return tuple(self._folds[fold] for fold in sorted(self._folds))

    # -- what others see ---------------------------------------------------------------------

    def _show(self, progress: Progress) -> None:
        self._live.set(
            state=progress.phase if self._told is None else "drain",
            fold=progress.fold,
            epoch=progress.epoch,
            step=progress.step,
            steps=progress.steps,
            loss=progress.loss,
            examples_per_s=progress.examples_per_s,
            memory_bytes=progress.memory_bytes,
        )

    def _note(self, event: EpochReport | FoldReport) -> None:
        trial, folds = self._claim.lease.trial, self._spec.validation.fold_count
        worker, training = self._live.view().name, self._hyperparameters.training
        if isinstance(event, EpochReport):
            self._live.set(
                fold=event.fold,
                epoch=event.epoch,
                last_score=event.score,
                best_score=event.best,
                loss=event.train_loss,
                next_cut=self._next_cut(event.fold, event.epoch),
            )
            self._shared.notify(
                EpochEnded(
                    utc(),
                    worker,
                    trial=trial,
                    fold=event.fold,
                    folds=folds,
                    epoch=event.epoch,
                    epochs=training.epochs,
                    score=event.score,
                    best=event.best,
                    loss=event.train_loss,
                    seconds=event.seconds,
                )
            )
            return
        known = event.fold in self._folds
        self._folds[event.fold] = replace(event)
        scores = [fold.score for fold in self._folds.values()]
        self._live.set(
            fold=event.fold,
            mean_score=sum(scores) / len(scores),
            next_cut=self._next_cut(event.fold, None),
        )
        if not known:
            self._shared.notify(
                FoldEnded(
                    utc(),
                    worker,
                    trial=trial,
                    fold=event.fold,
                    folds=folds,
                    score=event.score,
                    best_epoch=event.best_epoch,
                    epochs=event.epochs,
                    collapsed=bool(event.metrics.get("collapsed")),
                )
            )

    def _next_cut(self, fold: int, epoch: int | None) -> str | None:
        if self._claim.source is not None:
            return None
        number = self._claim.lease.trial
        cut = pruning.next_cut(self._spec, self._spec.name, number, fold=fold, epoch=epoch)
        if cut is None:
            return None
        return f"fold {cut.fold}" if cut.epoch is None else f"fold {cut.fold} epoch {cut.epoch}"
