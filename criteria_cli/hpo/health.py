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

LEAST_FINISHED = 5
"""Finished trials before an estimate of the time left is given."""
WINDOW_TRIALS = 20
WINDOW_S = 3600.0
LONG_S = 14 * 86_400.0
SILENT_TRIALS = 20
"""Trials that could have been pruned, and were not, before the pruner is called silent."""


@dataclass(frozen=True)
class Pace:
    """How fast trials finish lately."""

    per_hour: float | None = None
    eta_s: float | None = None
    range_s: tuple[float, float] | None = None
    """The middle half of what may be expected."""


def pace_of(ends: Sequence[tuple[float, str]], *, age_s: float, left: int, live: int) -> Pace:
    """The pace over the last 20 finished trials, or the last hour if that holds more.

    Args:
        ends: (seconds ago, worker) of finished trials, the latest first.
        age_s: of the study.
        left: trials to go.
        live: workers that live; one that died lately slows the estimate at once.
    """
    if len(ends) < LEAST_FINISHED:
        return Pace(eta_s=0.0 if left == 0 else None)
    recent = [end for end in ends if end[0] <= WINDOW_S]
    window = recent if len(recent) > WINDOW_TRIALS else list(ends[:WINDOW_TRIALS])
    before = ends[len(window)][0] if len(ends) > len(window) else age_s
    rate = len(window) / max(before, 1e-3)
    seen = len({worker for _, worker in window})
    if 0 < live < seen:
        rate *= live / seen
    if left == 0:
        return Pace(rate * 3600, 0.0, None)
    eta = left / rate
    spread = 0.6745 * math.sqrt(1 / len(window) + 1 / left)  # Poisson arrivals
    return Pace(rate * 3600, eta, (eta * max(0.0, 1 - spread), eta * (1 + spread)))


def state_of(counts: TrialCounts, target: int, paused: str | None, live: bool) -> StudyState:
    if counts.finished >= target:
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
    team: Sequence[WorkerStatus],
    failures: Sequence[FailureGroup],
    pruner: str,
    startup: int,
    pace: Pace,
    versions: Sequence[Mapping[str, str]],
) -> tuple[Trouble, ...]:
    """What a person should know, the gravest first."""
    found: list[Trouble] = []
    if paused is not None and state == "paused":
        found.append(
            Trouble(
                "paused",
                f"paused: its first trials all failed with `{paused}`",
                "look at the failures, then run `criteria hpo` again",
            )
        )
    if state == "stalled":
        found.append(Trouble("stalled", "work is left and no worker lives", f"criteria hpo {name}"))
    if state != "finished":
        found += [_lost(worker) for worker in team if worker.state == "lost"]
    found += _failing(counts, failures)
    if pruner != "none" and counts.pruned == 0 and counts.finished >= startup + SILENT_TRIALS:
        found.append(
            Trouble(
                "pruner_silent",
                f"{counts.finished} trials finished and `{pruner}` stopped none of them",
                "see `pruner` in the definition: do its rungs meet the reports?",
            )
        )
    if pace.eta_s is not None and pace.eta_s > LONG_S:
        found.append(
            Trouble(
                "long",
                f"at this pace it takes {pace.eta_s / 86_400:.0f} more days",
                "more workers, fewer trials or shorter epochs",
                serious=False,
            )
        )
    found += _mixed(versions)
    return tuple(found)


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
