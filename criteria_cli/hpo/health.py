"""How fast a study goes, when it will be done, and what a person should look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from criteria_cli.hpo.facts import (
    FailureGroup,
    StudyState,
    TrialCounts,
    Trouble,
    WorkerStatus,
)
from criteria_cli.study.files import reference_of

LEAST_FINISHED = 5
"""Finished trials before an estimate of the time left is given."""
WINDOW_TRIALS = 20
WINDOW_S = 3600.0
LONG_S = 14 * 86_400.0
SILENT_TRIALS = 20
"""Finished trials, none or all of them stopped, before the pruner is called silent or greedy."""


@dataclass(frozen=True)
class Worked:
    """A worker's time on a trial, in seconds ago."""

    began_s: float
    ended_s: float
    """0 while it works."""
    finished: bool
    """Whether the trial ended with it, complete or pruned."""


@dataclass(frozen=True)
class Pace:
    """How fast trials finish lately, if the workers that live go on."""

    per_hour: float | None = None
    eta_s: float | None = None
    range_s: tuple[float, float] | None = None
    """The middle half of what may be expected."""
    most_s: float | None = None
    """Before there is an estimate: what it takes if nothing is pruned, from the folds so far."""


def pace_of(worked: Sequence[Worked], *, left: int, live: int) -> Pace:
    """The pace over the last 20 finished trials, or the last hour if that holds more.

    What a trial costs is the workers' time spent in that window for each trial that finished in
    it, with the time of trials that failed or still run. So a night in which nobody worked does
    not count, and a worker that comes or dies changes the estimate at once.

    Args:
        worked: the latest attempts, the last ended first.
        left: trials to go.
        live: workers that live.
    """
    ends = [attempt.ended_s for attempt in worked if attempt.finished]
    if left == 0:
        return Pace(eta_s=0.0)
    if len(ends) < LEAST_FINISHED or live == 0:
        return Pace()
    recent = sum(end <= WINDOW_S for end in ends)
    trials = recent if recent > WINDOW_TRIALS else min(len(ends), WINDOW_TRIALS)
    begin = ends[trials] if len(ends) > trials else math.inf
    spent = sum(max(0.0, min(item.began_s, begin) - item.ended_s) for item in worked)
    per_hour = live * trials / max(spent, 1e-3) * 3600
    eta = spent / trials * left / min(live, left)  # the last trials keep fewer workers busy
    spread = 0.6745 * math.sqrt(1 / trials + 1 / left)  # Poisson arrivals
    return Pace(per_hour, eta, (eta * max(0.0, 1 - spread), eta * (1 + spread)))


def state_of(counts: TrialCounts, left: int, paused: str | None, live: bool) -> StudyState:
    if left == 0:
        return "finished"
    if paused is not None:
        return "paused"
    if live:
        return "running"
    begun = counts.finished + counts.failed + counts.running + counts.waiting
    return "stalled" if begun else "new"


def troubles_of(
    name: str,
    *,
    state: StudyState,
    paused: str | None,
    counts: TrialCounts,
    begun_over: int,
    team: Sequence[WorkerStatus],
    failures: Sequence[FailureGroup],
    pruner: str,
    startup: int,
    pace: Pace,
    versions: Sequence[Mapping[str, str]],
) -> tuple[Trouble, ...]:
    """What a person should know, the gravest first.

    Args:
        begun_over: trials that were begun and have no place in a budget that was lowered.
    """
    found: list[Trouble] = []
    if paused is not None and state == "paused":
        found.append(
            Trouble(
                "paused",
                f"paused: its first trials all failed with `{paused}`",
                f"look at the failures, then: criteria hpo {reference_of(name)}",
            )
        )
    if state == "stalled":
        again = f"criteria hpo {reference_of(name)}"
        found.append(Trouble("stalled", "work is left and no worker lives", again))
    if state != "finished":
        found += [_lost(worker) for worker in team if worker.state == "lost"]
    found += _over(name, counts, begun_over)
    found += _failing(counts, failures)
    found += _pruning(counts, pruner, startup)
    found += _long(pace)
    found += _mixed(versions)
    return tuple(found)


def _over(name: str, counts: TrialCounts, begun: int) -> list[Trouble]:
    """Trials that a lowered budget leaves in the middle: nobody would look for them."""
    if not begun:
        return []
    some = "1 trial was" if begun == 1 else f"{begun} trials were"
    return [
        Trouble(
            "over_budget",
            f"{some} begun before the budget was lowered, and kept",
            f"to finish: criteria hpo {reference_of(name)} --trials {counts.finished + begun}",
            serious=False,
        )
    ]


def _pruning(counts: TrialCounts, pruner: str, startup: int) -> list[Trouble]:
    """A pruner that stops nothing, or everything."""
    if counts.pruned == counts.finished >= SILENT_TRIALS:
        return [
            Trouble(
                "pruner_greedy",
                f"{counts.finished} trials finished and all of them were stopped",
                "more `pruner.startup_trials` give later trials something to be compared with",
            )
        ]
    # Of the first twenty at least half must have been at risk.
    enough = max(SILENT_TRIALS, startup + SILENT_TRIALS // 2)
    if pruner == "none" or counts.pruned or counts.finished < enough:
        return []
    return [
        Trouble(
            "pruner_silent",
            f"{counts.finished} trials finished and `{pruner}` stopped none of them",
            "see `pruner` in the definition: do its rungs meet the reports?",
        )
    ]


def _long(pace: Pace) -> list[Trouble]:
    """Weeks, said as soon as the first folds show them."""
    if pace.eta_s is not None and pace.eta_s > LONG_S:
        message = f"at this pace it takes {pace.eta_s / 86_400:.0f} more days"
    elif pace.most_s is not None and pace.most_s > LONG_S:
        message = f"it takes up to {pace.most_s / 86_400:.0f} days, less what is pruned"
    else:
        return []
    hint = "more workers, a lower --trials or fewer epochs make it shorter"
    return [Trouble("long", message, hint, serious=False)]


def _lost(worker: WorkerStatus) -> Trouble:
    minutes = (worker.heartbeat_age_s or 0.0) / 60
    trial = f"; its trial {worker.trial} is free for others" if worker.trial is not None else ""
    return Trouble(
        "worker_lost", f"worker `{worker.name}` has not been heard of for {minutes:.0f} m{trial}"
    )


def _failing(counts: TrialCounts, failures: Sequence[FailureGroup]) -> list[Trouble]:
    """One machine that burns trials is the most expensive failure there is."""
    total = sum(group.count for group in failures)
    if total < 3 or total < 0.2 * (counts.finished + total):
        return []
    worst = failures[0]
    return [
        Trouble(
            "failing",
            f"{total} attempts failed, {worst.count} of them with `{worst.cause}` on "
            f"`{worst.machine}`",
            worst.message,
        )
    ]


def _mixed(versions: Sequence[Mapping[str, str]]) -> list[Trouble]:
    differing = [
        package
        for package in ("criteria", "torch", "transformers")
        if len({known.get(package, "") for known in versions}) > 1
    ]
    if not differing:
        return []
    return [
        Trouble(
            "versions",
            f"workers run different versions of {', '.join(differing)}",
            serious=False,
        )
    ]
