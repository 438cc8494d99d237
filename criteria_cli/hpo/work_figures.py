"""Plots of the work behind a study: who ran what when, and where the time went."""

from __future__ import annotations

from collections import defaultdict
from html import escape

import plotly.graph_objects as go

from criteria_cli.hpo.figures import BEST, OTHER, PALETTE, Figure
from criteria_cli.hpo.report_facts import StudyRecord

OUTCOMES = {
    "complete": BEST,
    "pruned": OTHER,
    "failed": PALETTE[1],
    "lost": PALETTE[3],
    "retried": PALETTE[4],
    "yielded": PALETTE[2],
}


def timeline(record: StudyRecord) -> Figure | None:
    """Which worker ran which trial when."""
    ended = [attempt for attempt in record.attempts if attempt.end_s is not None]
    if not ended:
        return None
    figure = go.Figure()
    unit, per = _unit(max(attempt.end_s or 0.0 for attempt in ended))
    for outcome in sorted({attempt.outcome for attempt in ended}):
        own = [attempt for attempt in ended if attempt.outcome == outcome]
        figure.add_bar(
            y=[escape(attempt.worker) for attempt in own],
            x=[((attempt.end_s or 0.0) - attempt.start_s) / per for attempt in own],
            base=[attempt.start_s / per for attempt in own],
            orientation="h",
            name=escape(outcome or "unknown"),
            marker={
                "color": OUTCOMES.get(outcome, PALETTE[-1]),
                "line": {"color": "white", "width": 1},
            },
            hovertext=[f"trial {attempt.trial}" for attempt in own],
        )
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(title=f"{unit} since the study began", rangemode="tozero")
    return figure


def _unit(seconds: float) -> tuple[str, float]:
    if seconds < 600:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)


def cost(record: StudyRecord) -> Figure | None:
    """Seconds of each phase, summed over all finished folds."""
    totals: defaultdict[str, float] = defaultdict(float)
    for fold in record.folds:
        for name, value in fold.costs.items():
            if name.endswith("_s") and not name.endswith("_per_s"):
                totals[name.removesuffix("_s")] += value
    if not totals:
        return None
    names = sorted(totals, key=lambda name: -totals[name])
    unit, per = _unit(max(totals.values()))
    figure = go.Figure(
        go.Bar(x=names, y=[totals[name] / per for name in names], marker={"color": PALETTE[2]})
    )
    figure.update_yaxes(title=unit)
    return figure
