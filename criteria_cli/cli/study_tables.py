"""The tables of `criteria status NAME`: who does what, and the best trials side by side."""

from __future__ import annotations

from criteria_cli.cli.layout import Column, Line, Span, table
from criteria_cli.cli.words import ago, cleaned, duration, number, score, size
from criteria_cli.hpo.facts import StudyStatus, WorkerStatus


def worker_table(study: StudyStatus, width: int | None) -> list[Line]:
    """A row per worker; the lost ones stand last."""
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


def leader_table(study: StudyStatus, width: int | None) -> list[Line]:
    """The best trials with a column per parameter; the last ones fall away in a narrow window."""
    names = list(dict.fromkeys(name for leader in study.leaders for name in leader.params))
    columns = [
        Column("TRIAL", right=True),
        Column(study.metric.upper(), right=True),
        Column("FOLD SD", right=True),
        Column("FINISHED", right=True, rank=1),
        Column("WORKER", rank=3),
        *(Column(cleaned(name).rpartition(".")[2].upper(), right=True, rank=2) for name in names),
    ]
    rows = [
        [
            str(leader.trial),
            score(leader.value),
            "-" if leader.fold_sd is None else f"{leader.fold_sd:.3f}",
            ago(leader.age_s),
            cleaned(leader.worker or "-"),
            *(number(leader.params.get(name)) for name in names),
        ]
        for leader in study.leaders
    ]
    return table(columns, rows, width)
