"""What `criteria status` shows, in the order of a person's questions: will it finish and when, is
it getting better, who does what, is pruning working, what failed and where, what must I do.
"""

from __future__ import annotations

from criteria_cli.cli.layout import Line, Span, line, listed, sides, wrapped
from criteria_cli.cli.study_tables import leader_table, worker_table
from criteria_cli.cli.words import (
    ago,
    bar,
    cleaned,
    count,
    duration,
    number,
    percent,
    score,
)
from criteria_cli.hpo.facts import BestTrial, StudyStatus, TrialCounts
from criteria_cli.study.files import reference_of

STATE_STYLES = {"running": "good", "finished": "good", "stalled": "warn", "paused": "bad"}
MARGIN = " " * 9
"""Below a block's name."""
ENOUGH_FOR_ETA = 5
"""Finished trials before an estimate is worth printing."""


def study_screen(study: StudyStatus, storage: str, width: int | None) -> list[Line]:
    """One study in detail."""
    head = line(
        Span(cleaned(study.name), "strong"),
        "   ",
        Span(study.state, STATE_STYLES.get(study.state, "")),
        *([f", {_day(study.age_s)}"] if study.age_s is not None else []),
    )
    lines = [
        sides(head, line(Span(time_of_day(study.now), "dim")), width),
        *_facts(study, storage, width),
        line(),
        *_trials(study, width),
        *_best(study, width),
        *_eta(study),
    ]
    if study.workers:
        lines += [line(), *worker_table(study, width)]
    if len(study.leaders) > 1:
        lines += [line(), *leader_table(study, width)]
    below = [*_pruning(study, width), *_spent(study, width), *_failures(study, width)]
    if study.adopted:
        below.append(line("RESUMED  ", count(study.adopted, "attempt"), " went on after a worker"))
    if below:
        lines += [line(), *below]
    notes = [*trouble_lines(study, width), *_equals(study, width)]
    if notes:
        lines += [line(), *notes]
    following = _next(study)
    if following:
        lines += [line(), line("NEXT     ", following[0]), line(MARGIN, following[1])]
    return [item.fitted(width) for item in lines]


def _facts(study: StudyStatus, storage: str, width: int | None) -> list[Line]:
    wide = width is None or width >= 100
    parts = [f"storage  {storage}", study.metric, f"{study.folds} folds"]
    if wide and study.data_sha256:
        parts.append(f"data {study.data_sha256[:8]}")
    if wide and study.versions.get("criteria"):
        parts.append(f"criteria {cleaned(study.versions['criteria'])}")
    return [line("   ".join(parts)).fitted(width)]


def _trials(study: StudyStatus, width: int | None) -> list[Line]:
    counts = study.trials
    share = min(1.0, counts.finished / study.target) if study.target else 0.0
    done = f"{counts.finished}/{study.target} done  "
    # a bar is for eyes, not for a pipe
    drawn = "" if width is None else f"{bar(share, min(50, max(8, width - len(done) - 20)))}  "
    return [
        line("TRIALS   ", done, drawn, percent(share)),
        line(MARGIN, *counted(counts)),
    ]


def ended(counts: TrialCounts) -> list[str | Span]:
    """Trials that are over, by what became of them, as spans of a line."""
    failed = Span(f"{counts.failed} failed", "bad" if counts.failed else "")
    return [f"{counts.complete} complete  {counts.pruned} pruned  ", failed]


def counted(counts: TrialCounts) -> list[str | Span]:
    """The same, and those that are not over."""
    return [*ended(counts), f"  |  {counts.running} running  {counts.waiting} waiting"]


def _best(study: StudyStatus, width: int | None) -> list[Line]:
    best = study.best
    if best is None:
        return [line("BEST     none complete yet")]
    gain = ""
    if len(study.leaders) > 1:
        gain = f", +{best.value - study.leaders[1].value:.4f} over trial {study.leaders[1].trial}"
    return [
        line(
            "BEST     ",
            Span(score(best.value), "good"),
            f" {study.metric}   trial {best.trial}, {ago(best.age_s)}{gain}",
        ).fitted(width),
        *listed(parameters(best), width, indent=MARGIN),
    ]


def parameters(best: BestTrial) -> list[str]:
    """A trial's parameters, each as `learning_rate 1.9e-05`."""
    return [f"{cleaned(name)} {number(value)}" for name, value in best.params.items()]


def _eta(study: StudyStatus) -> list[Line]:
    if study.state == "finished":
        return []
    if study.eta_s is None:
        left = min(ENOUGH_FOR_ETA, study.target) - study.trials.finished
        why = f"after {count(left, 'more trial')}" if left > 0 else "unknown: no worker lives"
        return [line("ETA      ", why)]
    low_high = ""
    if study.eta_range_s is not None:
        low, high = study.eta_range_s
        low_high = f"  ({duration(low)} to {duration(high)})"
    live = sum(worker.state != "lost" for worker in study.workers)
    rate = "" if study.rate_per_hour is None else f" at {study.rate_per_hour:.3g} trials/h"
    return [line("ETA      ", duration(study.eta_s), low_high, f"   {count(live, 'worker')}{rate}")]


def _pruning(study: StudyStatus, width: int | None) -> list[Line]:
    pruning, finished = study.pruning, study.trials.finished
    if not finished:
        return []
    saved = "" if pruning.saved_fraction is None else f", {percent(pruning.saved_fraction)} saved"
    epochs = ""
    if pruning.epochs_full is not None:
        epochs = f", epochs {pruning.epochs_run} of {pruning.epochs_full}"
    lines = [
        line(
            f"PRUNED   {study.trials.pruned} of {finished} "
            f"({percent(study.trials.pruned / finished)})   "
            f"folds run {pruning.folds_run} of {pruning.folds_full}{epochs}{saved}"
        ).fitted(width)
    ]
    places = [
        f"{rung.reason} fold {rung.fold}"
        + (f" epoch {rung.epoch}" if rung.epoch is not None else "")
        + f": {rung.pruned}"
        for rung in pruning.by_rung
    ]
    if places:
        lines += listed(places, width, indent=MARGIN)
    confirm = pruning.confirm
    if confirm.wanted:
        failed = f", {confirm.failed} failed" if confirm.failed else ""
        running = f", {confirm.running} running" if confirm.running else ""
        done = f"{confirm.complete} of {confirm.wanted} stopped trials finished{failed}{running}"
        lines.append(line(f"CONFIRM  {done}").fitted(width))
    return lines


def _spent(study: StudyStatus, width: int | None) -> list[Line]:
    """Where the time of the latest folds went, the largest part first."""
    spent = study.spent
    total = 0.0 if spent is None else sum(spent.seconds.values())
    if spent is None or not total:
        return []
    parts = sorted(spent.seconds.items(), key=lambda part: -part[1])
    shown = [
        f"{phase} {percent(seconds / total)}" for phase, seconds in parts if seconds >= total / 200
    ]
    lines = listed(shown, width, head="TIME     ", hang=MARGIN)
    if spent.examples_per_s is not None:
        pace = f"{spent.examples_per_s:.3g} pairs/s, {percent(spent.padding)} padding"
        lines.append(line(f"{MARGIN}{pace}").fitted(width))
    return lines


def _failures(study: StudyStatus, width: int | None) -> list[Line]:
    lines: list[Line] = []
    for place, group in enumerate(study.failures):
        trials = ", ".join(str(trial) for trial in group.trials[:5])
        more = ", ..." if len(group.trials) > 5 else ""
        label = "FAILED   " if place == 0 else MARGIN
        head = f"{label}{group.count} {group.cause}"
        rest = f" on {cleaned(group.machine)} (trial {trials}{more}): {cleaned(group.message)}"
        first, *others = wrapped(f"{head}{rest}", width, hang=MARGIN)
        cause = Span(head.removeprefix(label), "bad")
        lines += [line(label, cause, first.text.removeprefix(head)).fitted(width), *others]
    return lines


def trouble_lines(study: StudyStatus, width: int | None, prefix: str = "") -> list[Line]:
    """What a person should know or do, each with its hint below."""
    lines: list[Line] = []
    for trouble in study.troubles:
        lines += wrapped(f"! {prefix}{cleaned(trouble.message)}", width, hang="  ")
        if trouble.hint:
            lines += wrapped(cleaned(trouble.hint), width, indent="  ")
    return lines


def _equals(study: StudyStatus, width: int | None) -> list[Line]:
    """Leaders that the folds cannot tell apart."""
    best = study.best
    if best is None or best.fold_sd is None:
        return []
    sd = best.fold_sd
    close = [
        str(leader.trial)
        for leader in study.leaders
        if leader.trial != best.trial and best.value - leader.value < sd
    ]
    if not close:
        return []
    those = f"trial {close[0]} is" if len(close) == 1 else f"trials {', '.join(close)} are"
    return wrapped(
        f"! {those} within one fold deviation ({sd:.3f}) of trial {best.trial}: "
        "treat them as equal",
        width,
        hang="  ",
    )


def _next(study: StudyStatus) -> list[str]:
    if study.state != "finished" or study.best is None:
        return []
    name = cleaned(study.name)
    return [f"criteria train {reference_of(name)} --from best", f"criteria report {name}"]


def _day(age_s: float | None) -> str:
    return f"day {int((age_s or 0) // 86400) + 1}"


def time_of_day(now: str) -> str:
    """The database's time of day."""
    return f"{now[11:19]}Z" if len(now) >= 19 else ""
