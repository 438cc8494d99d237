"""What `criteria hpo` writes where no terminal is: a line per event, and a line a minute for a
trial that runs and for the study as it gets on. No carriage return, no escape byte.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from criteria_cli.cli.words import cleaned, count, duration, number, score
from criteria_cli.hpo.events import (
    EpochEnded,
    FoldEnded,
    HpoEvent,
    LiveWorker,
    SignalSeen,
    StoreAway,
    StoreBack,
    StudyView,
    TrainerRestarted,
    TrialEnded,
    TrialStarted,
    WorkerReady,
    WorkerStarting,
    WorkerStopped,
)
from criteria_cli.hpo.facts import StudyStatus

PROGRESS_EVERY_S = 60.0


def pairs(values: Mapping[str, object]) -> str:
    """`n=3 fold=1/5`; what is unknown is left out, text with spaces is quoted."""
    return " ".join(
        f"{name}={_value(value)}" for name, value in values.items() if value not in (None, "")
    )


def _value(value: object) -> str:
    text = number(value)
    return f'"{text}"' if " " in text else text


def _score(value: float | None) -> str | None:
    return None if value is None else score(value)


class EventLines:
    """Writes events as lines, and at most a progress line a minute for each trial and the study."""

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._now = now
        self._written: dict[str, float] = {}
        self._many = False
        self._warned = False
        self._study_at: float | None = None
        self._finished = -1

    def __call__(self, event: HpoEvent | StudyView) -> None:
        if isinstance(event, StudyView):
            self._many = len(event.workers) > 1
            self._study(event.study)
            self._progress(event)
            long = None if self._warned else long_study(event.study)
            if long is not None:
                self._warned = True
                self._line(event.study.now, f"warning: {long}", "")
            return
        sentence = event_sentence(event)
        if sentence:
            self._line(event.at, sentence, event.worker if self._many else "")

    def close(self) -> None:
        """Nothing stays open."""

    def _study(self, study: StudyStatus) -> None:
        """How far the study is, when that has changed and a minute after the last such line."""
        finished, at = study.trials.finished, self._study_at
        waits = at is not None and self._now() - at < PROGRESS_EVERY_S
        if finished != self._finished and not waits:
            self._finished, self._study_at = finished, self._now()
            self._line(study.now, study_sentence(study), "")

    def _progress(self, view: StudyView) -> None:
        for worker in view.workers:
            if worker.trial is None:
                continue
            key = f"{worker.name}:{worker.trial}"
            if key not in self._written:
                self._written = {
                    k: v for k, v in self._written.items() if not k.startswith(f"{worker.name}:")
                }
                self._written[key] = self._now()
            if self._now() - self._written[key] >= PROGRESS_EVERY_S:
                self._written[key] = self._now()
                self._line(view.study.now, progress_sentence(worker), worker.name)

    def _line(self, at: str, sentence: str, worker: str) -> None:
        who = f" worker={cleaned(worker)}" if worker else ""
        self._stream.write(f"{at or utc_now()} {cleaned(sentence)}{who}\n")
        self._stream.flush()


def utc_now() -> str:
    """RFC 3339 with seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def progress_sentence(worker: LiveWorker) -> str:
    """Where a worker's trial stands."""
    return "trial " + pairs(
        {
            "n": worker.trial,
            "fold": _of(worker.fold, worker.folds),
            "epoch": _of(worker.epoch, worker.epochs),
            "step": _of(worker.step, worker.steps) if worker.steps else None,
            "score": _score(worker.last_score),
            "best": _score(worker.best_score),
            "loss": worker.loss,
            "ex_s": worker.examples_per_s,
            "memory_bytes": worker.memory_bytes,
            "time_s": round(worker.seconds),
        }
    )


def long_study(study: StudyStatus) -> str | None:
    """The warning about a study that takes weeks, with what shortens it, or None."""
    found = [trouble for trouble in study.troubles if trouble.code == "long"]
    return f"{found[0].message}: {found[0].hint}" if found else None


def study_sentence(study: StudyStatus) -> str:
    """How far the whole study is, over all its workers."""
    bounds = study.eta_range_s or (() if study.eta_s is None else (study.eta_s,))
    return "study " + pairs(
        {
            "name": study.name,
            "done": f"{study.trials.finished}/{study.target}",
            "pruned": study.trials.pruned,
            "failed": study.trials.failed,
            "best": None if study.best is None else score(study.best.value),
            "best_trial": None if study.best is None else study.best.trial,
            "workers": sum(worker.state != "lost" for worker in study.workers),
            "eta_s": "-".join(f"{bound:.0f}" for bound in bounds),
        }
    )


def _of(value: int | None, whole: int) -> str | None:
    return None if value is None else f"{value}/{whole}"


def event_sentence(event: HpoEvent) -> str:
    """An event in one line without its time; empty for one that progress lines cover."""
    match event:
        case EpochEnded():
            return ""
        case WorkerStarting():
            return "worker starting " + pairs({"device": event.device, "name": event.device_name})
        case WorkerReady():
            found: dict[str, Any] = {
                "device": event.device,
                "name": event.device_name,
                "precision": event.precision,
                "pairs": event.pairs,
                "cut_posts": event.cut_posts,
                "unread": f"{event.unread:.4f}",
                "after_s": round(event.seconds),
            }
            return f"worker ready {pairs(found)}"
        case TrialStarted():
            return f"trial n={event.trial} {_start(event)}".rstrip()
        case FoldEnded():
            return f"trial n={event.trial} fold={event.fold}/{event.folds} done " + pairs(
                {
                    "score": score(event.score),
                    "best_epoch": event.best_epoch,
                    "epochs": event.epochs,
                    "collapsed": "yes" if event.collapsed else None,
                }
            )
        case TrialEnded():
            return f"trial n={event.trial} {ending(event)}"
        case TrainerRestarted():
            return f"trainer restarted cause={event.cause}: {event.message}"
        case StoreAway():
            return f"store unreachable ({event.cause}): training goes on"
        case StoreBack():
            waited = count(event.sent, "record")
            return f"store reachable again after {duration(event.seconds)}, {waited} sent"
        case SignalSeen():
            return f"signal {event.signal}: saving"
        case WorkerStopped():
            why = f": {event.message}" if event.message else ""
            return f"worker stopped reason={event.reason}{why}"


def _start(event: TrialStarted) -> str:
    word = "start" if event.adopted_from is None else f"goes on after {event.adopted_from}"
    facts: dict[str, Any] = {}
    if event.attempt > 1:
        facts["attempt"] = event.attempt
    if event.confirms is not None:
        facts["confirms"] = event.confirms
    if event.folds_done:
        facts["folds_done"] = event.folds_done
    return f"{word} {pairs({**facts, **event.params})}"


def ending(event: TrialEnded) -> str:
    """How a trial ended."""
    where = "" if event.fold is None else f" fold={event.fold}"
    if event.epoch is not None:
        where += f" epoch={event.epoch}"
    result = "" if event.score is None else f" score={score(event.score)}"
    reason = f": {event.reason}" if event.reason else ""
    cause = f" cause={event.cause}" if event.cause else ""
    best = " best" if event.best else ""
    return f"{event.state}{where}{result}{best} time_s={event.seconds:.0f}{cause}{reason}"
