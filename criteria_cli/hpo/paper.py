"""The plots of a study as PNG files, drawn by matplotlib: no browser, no network."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from html import unescape
from statistics import mean
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from criteria_cli.hpo import figures, fold_figures, work_figures
from criteria_cli.hpo.report_facts import StudyRecord

DPI = 200
SIZE = (6.4, 4.0)
"""Inches."""

_STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "legend.frameon": False,
}


def pictures(record: StudyRecord) -> Iterator[tuple[str, bytes]]:
    """Each plot that the study is old enough for: its key and the PNG."""
    drawings: dict[str, Callable[[StudyRecord, Any], bool]] = {
        "history": _history,
        "importance": _importance,
        "curves": _curves,
        "spread": _spread,
        "criteria": _criteria,
        "calibration": _calibration,
        "slices": _slices,
        "pruning": _pruning,
        "timeline": _timeline,
        "cost": _cost,
    }
    with mpl.rc_context(_STYLE):
        for key, draw in drawings.items():
            figure = Figure(figsize=SIZE, layout="constrained")
            axes = figure.add_subplot()
            content = io.BytesIO()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a name in a script that the font has not
                drawn = draw(record, axes)
                if drawn:
                    figure.savefig(content, format="png", dpi=DPI)
            if drawn:
                yield key, content.getvalue()


def _plain(name: str) -> str:
    """A name from the store as matplotlib is to draw it: no formula, no control characters.
    Those that come by way of a plotly figure are escaped for a page."""
    return "".join(filter(str.isprintable, unescape(name))).replace("$", r"\$")


def _history(record: StudyRecord, axes: Any) -> bool:
    complete = sorted(record.complete, key=lambda trial: trial.number)
    if not complete:
        return False
    numbers = [trial.number for trial in complete]
    values = [trial.value or 0.0 for trial in complete]
    best = [max(values[: place + 1]) for place in range(len(values))]
    axes.plot(numbers, values, "o", markersize=3, color=figures.PALETTE[2], label="complete")
    axes.step(numbers, best, where="post", color=figures.BEST, label="best so far")
    axes.set(xlabel="trial", ylabel=record.metric)
    axes.legend()
    return True


def _importance(record: StudyRecord, axes: Any) -> bool:
    if len({trial.value for trial in record.complete}) < 2:
        return False
    shares = figures.importances(record)
    names = sorted(shares, key=shares.__getitem__)
    axes.barh(
        [_plain(name) for name in names], [shares[name] for name in names], color=figures.BEST
    )
    axes.set(xlabel="share of the score's variance")
    return bool(names)


def _curves(record: StudyRecord, axes: Any) -> bool:
    figure = fold_figures.curves(record)
    if figure is None:
        return False
    for trace in figure.data:
        label = trace.name if trace.showlegend is not False else None
        axes.plot(
            trace.x, trace.y, color=trace.line.color, linewidth=trace.line.width / 1.5, label=label
        )
    axes.set(xlabel="epoch", ylabel=record.metric)
    if any(trace.showlegend is not False for trace in figure.data):
        axes.legend()
    return True


def _spread(record: StudyRecord, axes: Any) -> bool:
    scores = record.fold_scores()
    best = [trial.number for trial in record.complete[: fold_figures.LEADERS]]
    shown = [number for number in best if len(scores.get(number, [])) > 1]
    if not shown:
        return False
    for place, number in enumerate(shown):
        values = scores[number]
        axes.plot([place] * len(values), values, "o", markersize=3, color=figures.PALETTE[2])
        axes.plot([place - 0.25, place + 0.25], [mean(values)] * 2, color=figures.BEST)
    axes.set_xticks(range(len(shown)), [str(number) for number in shown])
    axes.set(xlabel="trial", ylabel=f"{record.metric} of a fold")
    return True


def _criteria(record: StudyRecord, axes: Any) -> bool:
    figure = fold_figures.criteria(record)
    if figure is None:
        return False
    trace = figure.data[0]
    errors = [trace.error_y.arrayminus, trace.error_y.array]
    axes.bar(
        [_plain(name) for name in trace.x], trace.y, yerr=errors, capsize=2, color=figures.BEST
    )
    axes.set(ylabel="F1", ylim=(0, 1))
    return True


def _pruning(record: StudyRecord, axes: Any) -> bool:
    figure = fold_figures.pruning(record)
    if figure is None:
        return False
    bottom = [0.0] * len(figure.data[0].x)
    for trace in figure.data:
        axes.bar(
            trace.x, trace.y, bottom=bottom, color=trace.marker.color, label=_plain(trace.name)
        )
        bottom = [low + high for low, high in zip(bottom, trace.y, strict=True)]
    axes.set(ylabel="trials stopped")
    axes.legend()
    return True


def _calibration(record: StudyRecord, axes: Any) -> bool:
    bins = fold_figures.reliability(record)
    if not bins:
        return False
    said, true, counts = zip(*bins, strict=True)
    axes.plot([0, 1], [0, 1], ":", color=figures.OTHER)
    axes.plot(said, true, color=figures.BEST)
    sizes = [fold_figures.dot_size(count, max(counts)) ** 2 / 2 for count in counts]
    axes.scatter(said, true, sizes, color=figures.BEST)
    axes.text(0.02, 0.95, f"expected calibration error {fold_figures.calibration_error(bins):.3f}")
    axes.set(xlabel="predicted probability", ylabel="share that is positive")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return True


def _slices(record: StudyRecord, axes: Any) -> bool:
    """A small plot per parameter in the place of the one that was given."""
    complete = sorted(record.complete, key=lambda trial: trial.number)
    names = sorted({name for trial in complete for name in trial.params})
    if len(complete) < 2 or not names:
        return False
    figure = axes.figure
    axes.remove()
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure.set_size_inches(SIZE[0], 1.7 * rows + 0.4)
    for place, name in enumerate(names, 1):
        small = figure.add_subplot(rows, columns, place)
        having = [trial for trial in complete if name in trial.params]
        values = [trial.params[name] for trial in having]
        distribution: Any = having[0].distributions[name]
        if not all(type(value) in (int, float) for value in values):
            values = [_plain(str(value)) for value in values]
        elif getattr(distribution, "log", False):
            small.set_xscale("log")
            small.xaxis.set_minor_formatter(NullFormatter())  # labels would lie on each other
        scores = [trial.value for trial in having]
        small.scatter(values, scores, 8, c=range(len(having)), cmap="Greens", vmin=-3)
        small.set_xlabel(_plain(name), fontsize=7)
        small.tick_params(labelsize=6)
        if place % columns == 1 or columns == 1:
            small.set_ylabel(record.metric, fontsize=7)
    return True


def _timeline(record: StudyRecord, axes: Any) -> bool:
    figure = work_figures.timeline(record)
    if figure is None:
        return False
    for trace in figure.data:
        axes.barh(
            [_plain(name) for name in trace.y], trace.x, left=trace.base,
            color=trace.marker.color, edgecolor="white", linewidth=0.5, label=_plain(trace.name),
        )  # fmt: skip
    axes.set(xlabel=figure.layout.xaxis.title.text, xlim=(0, None))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(figure.data))
    return True


def _cost(record: StudyRecord, axes: Any) -> bool:
    figure = work_figures.cost(record)
    if figure is None:
        return False
    trace = figure.data[0]
    axes.bar([_plain(name) for name in trace.x], trace.y, color=trace.marker.color)
    axes.set(ylabel=figure.layout.yaxis.title.text)
    return True
