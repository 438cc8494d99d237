"""The screen of `criteria hpo` in a terminal: one process draws, nothing is wider than the window.

It is drawn anew in place about once a second and is gone at the end.
"""

from __future__ import annotations

from collections import deque
from typing import TextIO

from criteria_cli.cli.drawing import Block
from criteria_cli.cli.event_lines import event_sentence, long_study
from criteria_cli.cli.layout import Line, Span, line, sides, wrapped
from criteria_cli.cli.status_screen import ENOUGH_FOR_ETA, counted, ended
from criteria_cli.cli.words import bar, clock, count, duration, percent, score, size
from criteria_cli.hpo.events import (
    FoldEnded,
    HpoEvent,
    LiveWorker,
    StudyView,
    TrialEnded,
    TrialStarted,
    WorkerReady,
    WorkerStarting,
)

EVENTS_KEPT = 50
WIDE = 140
"""Columns from which a worker takes one line instead of two."""
_WITHOUT_TRIAL = {
    "start": "starting",
    "load": "starting: reads the data, loads the model",
    "idle": "waits for a trial",
}
"""A worker's states as long as it has no trial."""
_MARKS = {"complete": "good", "pruned": "dim", "failed": "bad", "retried": "warn", "lost": "bad"}


class LiveScreen:
    """Draws views and remembers the last events."""

    def __init__(self, stream: TextIO, log: str) -> None:
        self._block = Block(stream)
        self._log = log
        self._events: deque[Line] = deque(maxlen=EVENTS_KEPT)
        self._view: StudyView | None = None

    def __call__(self, event: HpoEvent | StudyView) -> None:
        if isinstance(event, StudyView):
            self._view = event
        else:
            told = event_line(event)
            if told is not None:
                self._events.appendleft(told)
        if self._view is not None:
            block = self._block
            events = list(self._events)
            block.draw(screen(self._view, events, self._log, block.width, block.height))

    def close(self) -> None:
        """Take the screen away."""
        self._block.erase()


def event_line(event: HpoEvent) -> Line | None:
    """An event as the list at the bottom shows it; None for what the workers' lines show."""
    if isinstance(event, WorkerStarting | TrialStarted) or (
        isinstance(event, FoldEnded) and not event.collapsed
    ):
        return None
    at = f"{event.at[11:19]}Z"
    if isinstance(event, WorkerReady):
        cut = count(event.cut_posts, "post")
        facts = (
            f"ready after {duration(event.seconds)}",
            f"{cut} cut, {percent(event.unread)} unread" if event.cut_posts else "",
            event.device_name,
            event.precision,
        )
        return line(Span(f"{at}  ", "dim"), f"{event.device:<6} ", "  ".join(filter(None, facts)))
    if isinstance(event, TrialEnded):
        return line(
            Span(f"{at}  ", "dim"),
            f"trial {event.trial:<4} ",
            Span(f"{event.state:<9} ", _MARKS.get(event.state, "")),
            Span("best so far  ", "strong") if event.best else "",
            _ending(event),
        )
    sentence = event_sentence(event)
    return line(Span(f"{at}  ", "dim"), sentence) if sentence else None


def _ending(event: TrialEnded) -> str:
    place = "" if event.fold is None else f"fold {event.fold}"
    if event.epoch is not None:
        place += f" epoch {event.epoch}"
    value = "" if event.score is None else score(event.score)
    why = [part for part in (event.cause, event.reason) if part]
    took = duration(event.seconds)
    # a narrow window cuts what stands last
    rest = (*why, took) if event.state == "pruned" else (took, *why)
    return "  ".join(part for part in (place, value, *rest) if part)


def screen(view: StudyView, events: list[Line], log: str, width: int, height: int) -> list[Line]:
    """Everything the live display shows, at most `height` lines of `width` columns."""
    study = view.study
    lines = [_head(view, width), line(), *_study(view, width)]
    if view.store_away_s is not None:
        lines.append(
            line(
                Span("store  ", "warn"),
                f"does not answer for {duration(view.store_away_s)}: training goes on, "
                f"{count(view.spooled, 'record')} wait",
            )
        )
    long = long_study(study)
    if long is not None:
        lines += [
            line(Span(item.text, "warn"))
            for item in wrapped(f"warn   {long}", width, hang="       ")
        ]
    lines.append(line())
    per_worker = 1 if width >= WIDE else 2
    room = height - len(lines) - 3
    shown = max(1, min(len(view.workers), room // per_worker))
    for worker in view.workers[:shown]:
        lines += worker_lines(worker, study.metric, width)
    hidden = len(view.workers) - shown
    if hidden > 0:
        lines.append(line(Span(f"and {count(hidden, 'more worker')} here", "dim")))
    space = max(0, height - len(lines) - 3)
    if events and space:
        lines += [line(), *events[: min(space, 8)]]
    lines += [line(), _foot(log, width)]
    return [item.fitted(width) for item in lines[:height]]


def _head(view: StudyView, width: int) -> Line:
    study, here = view.study, len(view.workers)
    live = sum(worker.state != "lost" for worker in study.workers)
    others = max(0, live - here)
    who = f"{count(here, 'worker')} here" + (f", {others} elsewhere" if others else "")
    left = line("criteria hpo  ", Span(study.name, "strong"), f"   {who}")
    return sides(left, line(Span(clock(view.elapsed_s), "dim")), width)


def _study(view: StudyView, width: int) -> list[Line]:
    study = view.study
    best = (
        "no complete trial yet"
        if study.best is None
        else f"best {study.metric} {score(study.best.value)} (trial {study.best.trial})"
    )
    done = f"{study.trials.finished}/{study.target}"
    room = max(8, min(50, width - len(done) - len(best) - 16))
    share = study.trials.finished / study.target if study.target else 0.0
    eta = _eta(view)
    counts = line("       ", *counted(study.trials))
    if len(counts.text) + len(eta) + 2 > width:
        # who runs what stands below; the estimate stands nowhere else
        counts = line("       ", *ended(study.trials))
    return [
        line("study  ", Span(bar(share, room), "good"), f" {done}   ", Span(best, "strong")),
        sides(counts, line(eta), width),
    ]


def _eta(view: StudyView) -> str:
    study = view.study
    if study.eta_s is None:
        left = min(ENOUGH_FOR_ETA, study.target) - study.trials.finished
        return f"ETA after {count(left, 'more trial')}" if left > 0 else "ETA unknown"
    text = f"ETA {duration(study.eta_s)}"
    if study.eta_range_s is not None:
        low, high = (duration(bound) for bound in study.eta_range_s)
        return f"{text} ({low} to {high})" if low != high else text
    return text


def worker_lines(worker: LiveWorker, metric: str, width: int) -> list[Line]:
    """What one worker does, on one line or two."""
    name = Span(f"{worker.device:<7}", "strong")
    if worker.trial is None:
        return [line(name, Span(_WITHOUT_TRIAL.get(worker.state, worker.state), "dim"))]
    share = worker.step / worker.steps if worker.steps else 0.0
    if worker.state == "train":
        doing = f"{bar(share, 12)} {100 * share:3.0f}%"
    else:
        doing = f"{worker.state:<19}"
    trial = f"trial {worker.trial}"
    if worker.attempt > 1:
        trial += f" (attempt {worker.attempt})"
    epoch = f"{_place(worker.epoch, worker.epochs):>7}"
    place = f"{trial}  fold {_place(worker.fold, worker.folds)}  epoch {epoch}"
    first = [f"{place}  {doing}  ", f"{metric} {score(worker.last_score)}"]
    facts = [
        "" if worker.mean_score is None else f"folds {score(worker.mean_score)}",
        "" if worker.loss is None else f"loss {worker.loss:.3f}",
        "" if worker.examples_per_s is None else f"{worker.examples_per_s:.0f} ex/s",
        "" if worker.memory_bytes is None else size(worker.memory_bytes),
        duration(worker.seconds),
        "" if worker.next_cut is None else f"next cut {worker.next_cut}",
    ]
    second = "  ".join(fact for fact in facts if fact)
    if width >= WIDE:
        return [line(name, *first, "  ", Span(second, "dim")).fitted(width)]
    return [
        line(name, *first).fitted(width),
        line("       ", Span(second, "dim")).fitted(width),
    ]


def _place(value: int | None, whole: int) -> str:
    return f"{value or '-'}/{whole}"


def _foot(log: str, width: int) -> Line:
    keys = line(Span("Ctrl-C saves and stops, twice stops at once", "dim"))
    return sides(keys, line(Span(f"log {log}", "dim")), width)
