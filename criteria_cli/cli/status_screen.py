"""What `criteria status` shows, in the order of a person's questions: will it finish and when, is
it getting better, who does what, is pruning working, what failed and where, what must I do.
"""

from __future__ import annotations

from collections.abc import Sequence

from criteria_cli.cli.layout import Column, Line, Row, Span, line, sides, table, wrapped
from criteria_cli.cli.words import (
    ago,
    bar,
    cleaned,
    count,
    duration,
    number,
    percent,
    score,
    size,
)
from criteria_cli.hpo.facts import BestTrial, StudyStatus, TrialCounts, WorkerStatus

STATE_STYLES = {"running": "good", "finished": "good", "stalled": "warn", "paused": "bad"}
ENOUGH_FOR_ETA = 5
"""Finished trials before an estimate is worth printing."""


def studies_screen(studies: Sequence[StudyStatus], storage: str, width: int | None) -> list[Line]:
    """All studies of a store, one line each."""
    now = studies[0].now if studies else ""
    lines = [sides(line("storage  ", storage), line(Span(_time(now), "dim")), width), line()]
    if not studies:
        return [
            *lines,
            line("no study yet"),
            line("  start with: criteria hpo demo"),
        ]
    columns = [
        Column("STUDY", shrink=True),
        Column("STATE"),
        Column("DONE", right=True),
        Column("BEST", right=True),
        Column("METRIC", rank=2),
        Column("FAILED", right=True, rank=1),
        Column("WORKERS", right=True),
        Column("LAST EVENT", right=True),
        Column("ETA", right=True),
    ]
    rows: list[Row] = [
        [
            cleaned(study.name),
            Span(study.state, STATE_STYLES.get(study.state, "")),
            f"{study.trials.finished}/{study.target}",
            score(study.best.value if study.best else None),
            study.metric,
            str(study.trials.failed),
            _workers(study),
            ago(study.last_event_age_s),
            duration(study.eta_s),
        ]
        for study in studies
    ]
    lines += table(columns, rows, width)
    troubled = [study for study in studies if study.troubles]
    for study in troubled:
        lines.append(line())
        lines += _troubles(study, width, prefix=f"{cleaned(study.name)}: ")
    return [item.fitted(width) for item in lines]


def study_screen(study: StudyStatus, storage: str, width: int | None) -> list[Line]:
    """One study in detail."""
    head = line(
        Span(cleaned(study.name), "strong"),
        "   ",
        Span(study.state, STATE_STYLES.get(study.state, "")),
        *([f", {_day(study.age_s)}"] if study.age_s is not None else []),
    )
    lines = [
        sides(head, line(Span(_time(study.now), "dim")), width),
        *_facts(study, storage, width),
        line(),
        *_trials(study, width),
        *_best(study, width),
        *_eta(study),
    ]
    if study.workers:
        lines += [line(), *_worker_table(study, width)]
    if len(study.leaders) > 1:
        lines += [line(), *_leader_table(study, width)]
    below = [*_pruning(study, width), *_failures(study, width)]
    if study.adopted:
        below.append(line("RESUMED  ", count(study.adopted, "attempt"), " went on after a worker"))
    if below:
        lines += [line(), *below]
    notes = [*_troubles(study, width), *_equals(study, width)]
    long = long_study(study)
    if long is not None:
        notes += wrapped(f"! {long}", width)
    if notes:
        lines += [line(), *notes]
    following = _next(study)
    if following:
        lines += [line(), line("next     ", following)]
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
        line("         ", *counted(counts)),
    ]


LONG_STUDY_S = 14 * 86400.0


def long_study(study: StudyStatus) -> str | None:
    """A warning about a study that takes weeks, or None."""
    if study.eta_s is None or study.eta_s < LONG_STUDY_S:
        return None
    return (
        f"at this rate {study.target} trials take {duration(study.eta_s)} more: add workers, "
        "lower --trials, or train fewer epochs"
    )


def counted(counts: TrialCounts) -> list[str | Span]:
    """Trials by what became of them, as spans of a line."""
    failed = Span(f"{counts.failed} failed", "bad" if counts.failed else "")
    return [
        f"{counts.complete} complete  {counts.pruned} pruned  ",
        failed,
        f"  |  {counts.running} running  {counts.waiting} waiting",
    ]


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
        *wrapped(parameters(best), width, indent="         "),
    ]


def parameters(best: BestTrial) -> str:
    """A trial's parameters as `learning_rate 1.9e-05  batch_size 16`."""
    return "  ".join(f"{cleaned(name)} {number(value)}" for name, value in best.params.items())


def _eta(study: StudyStatus) -> list[Line]:
    if study.state == "finished":
        return []
    if study.eta_s is None:
        left = ENOUGH_FOR_ETA - study.trials.finished
        why = f"after {count(left, 'more trial')}" if left > 0 else "unknown: no worker lives"
        return [line("ETA      ", why)]
    low_high = ""
    if study.eta_range_s is not None:
        low, high = study.eta_range_s
        low_high = f"  ({duration(low)} to {duration(high)})"
    rate = "" if study.rate_per_hour is None else f"   {study.rate_per_hour:.3g} trials/h lately"
    return [line("ETA      ", duration(study.eta_s), low_high, rate)]


def _worker_table(study: StudyStatus, width: int | None) -> list[Line]:
    columns = [
        Column("TRIAL", right=True),
        Column("FOLD", right=True),
        Column("EPOCH", right=True),
        Column("LAST", right=True, rank=2),
        Column("BEST", right=True),
        Column("TIME", right=True, rank=1),
        Column("WORKER", shrink=True),
        Column("DEVICE", rank=4, shrink=True),
        Column("EX/S", right=True, rank=5),
        Column("MEMORY", right=True, rank=6),
        Column("BEAT", right=True),
        Column("DONE", right=True, rank=7),
        Column("FAILED", right=True, rank=7),
        Column("STATE"),
    ]
    workers = sorted(study.workers, key=lambda worker: (worker.state == "lost", worker.name))
    return table(columns, [_worker(study, worker) for worker in workers], width)


def _worker(study: StudyStatus, worker: WorkerStatus) -> list[str | Span]:
    lost = worker.state == "lost"
    return [
        "-" if worker.trial is None else str(worker.trial),
        "-" if worker.fold is None else f"{worker.fold}/{study.folds}",
        "-" if worker.epoch is None else f"{worker.epoch}/{study.epochs}",
        score(worker.last_score),
        score(worker.best_score),
        duration(worker.trial_age_s),
        cleaned(worker.name),
        cleaned(worker.device_name or worker.device),
        "-" if worker.examples_per_s is None else f"{worker.examples_per_s:.0f}",
        size(worker.memory_bytes),
        duration(worker.heartbeat_age_s),
        str(worker.done),
        str(worker.failed),
        Span("LOST", "bad") if lost else Span(worker.state),
    ]


def _leader_table(study: StudyStatus, width: int | None) -> list[Line]:
    columns = [
        Column("TRIAL", right=True),
        Column(study.metric.upper(), right=True),
        Column("FOLD SD", right=True),
        Column("FINISHED", right=True),
        Column("WORKER", rank=2, shrink=True),
        Column("PARAMETERS", rank=1, shrink=True),
    ]
    rows = [
        [
            str(leader.trial),
            score(leader.value),
            "-" if leader.fold_sd is None else f"{leader.fold_sd:.3f}",
            ago(leader.age_s),
            cleaned(leader.worker or "-"),
            parameters(leader),
        ]
        for leader in study.leaders
    ]
    return table(columns, rows, width)


def _pruning(study: StudyStatus, width: int | None) -> list[Line]:
    pruning, finished = study.pruning, study.trials.finished
    if not finished:
        return []
    saved = "" if pruning.saved_fraction is None else f", {percent(pruning.saved_fraction)} saved"
    lines = [
        line(
            f"PRUNED   {study.trials.pruned} of {finished} "
            f"({percent(study.trials.pruned / finished)})   "
            f"folds run {pruning.folds_run} of {pruning.folds_full}{saved}"
        ).fitted(width)
    ]
    places = [
        f"{rung.reason} fold {rung.fold}"
        + (f" epoch {rung.epoch}" if rung.epoch is not None else "")
        + f": {rung.pruned}"
        for rung in pruning.by_rung
    ]
    if places:
        lines += wrapped("   ".join(places), width, indent="         ")
    return lines


def _failures(study: StudyStatus, width: int | None) -> list[Line]:
    lines: list[Line] = []
    for place, group in enumerate(study.failures):
        trials = ", ".join(str(trial) for trial in group.trials[:5])
        more = ", ..." if len(group.trials) > 5 else ""
        lines.append(
            line(
                "FAILED   " if place == 0 else "         ",
                Span(f"{group.count} {group.cause}", "bad"),
                f" on {cleaned(group.machine)} (trial {trials}{more}): {cleaned(group.message)}",
            ).fitted(width)
        )
    return lines


def _troubles(study: StudyStatus, width: int | None, prefix: str = "") -> list[Line]:
    lines: list[Line] = []
    for trouble in study.troubles:
        lines += wrapped(f"! {prefix}{cleaned(trouble.message)}", width)
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
    )


def _next(study: StudyStatus) -> str:
    name = cleaned(study.name)
    if study.state == "finished" and study.best is not None:
        return f"criteria train STUDY --from best --name {name}   criteria report {name}"
    return ""


def _workers(study: StudyStatus) -> str:
    if not study.workers:
        return "-"
    live = sum(worker.state != "lost" for worker in study.workers)
    return f"{live} of {len(study.workers)}"


def _day(age_s: float | None) -> str:
    return f"day {int((age_s or 0) // 86400) + 1}"


def _time(now: str) -> str:
    """The database's time of day."""
    return f"{now[11:19]}Z" if len(now) >= 19 else ""
