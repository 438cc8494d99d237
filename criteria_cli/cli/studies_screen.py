"""What `criteria status` shows of a whole store: a line per study, and what a person must do."""

from __future__ import annotations

from collections.abc import Sequence

from criteria_cli.cli.layout import Column, Line, Row, Span, line, sides, table
from criteria_cli.cli.status_screen import STATE_STYLES, time_of_day, trouble_lines
from criteria_cli.cli.words import ago, cleaned, duration, score
from criteria_cli.hpo.facts import StudyStatus


def studies_screen(studies: Sequence[StudyStatus], storage: str, width: int | None) -> list[Line]:
    """All studies of a store, one line each."""
    now = studies[0].now if studies else ""
    lines = [sides(line("storage  ", storage), line(Span(time_of_day(now), "dim")), width), line()]
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
        lines += trouble_lines(study, width, prefix=f"{cleaned(study.name)}: ")
    return [item.fitted(width) for item in lines]


def _workers(study: StudyStatus) -> str:
    if not study.workers:
        return "-"
    live = sum(worker.state != "lost" for worker in study.workers)
    return f"{live} of {len(study.workers)}"
