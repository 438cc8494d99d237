"""Plots of a study's trials, as plotly figures. One that the study is too young for is None."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from html import escape
from typing import Any

import optuna
import plotly.graph_objects as go

from criteria_cli.hpo.report_facts import StudyRecord

BEST = "#0b6e4f"
OTHER = "#9aa5b1"
FAINT = "#6b7785"
"""For marks too small for `OTHER`."""
PALETTE = ("#0b6e4f", "#c1440e", "#3d5a98", "#b58900", "#7b3f8c", "#2a9d8f", "#8a817c")
MIN_FOR_IMPORTANCE = 4

Figure = Any  # plotly ships no types


def history(record: StudyRecord) -> Figure | None:
    """Each finished trial's score and the best so far."""
    finished = [trial for trial in record.finished if trial.value is not None]
    pruned = [trial for trial in finished if trial.state is optuna.trial.TrialState.PRUNED]
    complete = sorted(record.complete, key=lambda trial: trial.number)
    if not complete:
        return None
    best, top = [], -1.0
    for trial in complete:
        top = max(top, trial.value or 0.0)
        best.append(top)
    figure = go.Figure()
    numbers = [trial.number for trial in complete]
    if pruned:
        figure.add_scatter(
            x=[trial.number for trial in pruned],
            y=[trial.value for trial in pruned],
            mode="markers",
            name="pruned",
            marker={"color": FAINT, "symbol": "x-thin-open", "size": 7},
        )
    figure.add_scatter(
        x=numbers,
        y=[trial.value for trial in complete],
        mode="markers",
        name="complete",
        marker={"color": PALETTE[2], "size": 8},
    )
    figure.add_scatter(
        x=numbers, y=best, mode="lines", name="best so far", line={"color": BEST, "shape": "hv"}
    )
    figure.update_xaxes(title="trial")
    figure.update_yaxes(title=record.metric)
    return figure


def importance(record: StudyRecord) -> Figure | None:
    """Optuna's fANOVA importances (Hutter et al., 2014)."""
    values = {trial.value for trial in record.complete}
    if len(record.complete) < MIN_FOR_IMPORTANCE or len(values) < 2:
        return None
    shares = importances(record)
    if not shares:
        return None
    names = sorted(shares, key=shares.__getitem__)
    figure = go.Figure(
        go.Bar(
            x=[shares[name] for name in names],
            y=[escape(name) for name in names],
            orientation="h",
            marker={"color": BEST},
            text=[f"{shares[name]:.2f}" for name in names],
        )
    )
    figure.update_xaxes(title="share of the score's variance", range=[0, 1])
    return figure


def importances(record: StudyRecord) -> dict[str, float]:
    """Parameters that every complete trial has, with their share of the score's variance."""
    try:
        return dict(optuna.importance.get_param_importances(record.study))
    except (RuntimeError, ValueError):
        return {}  # no parameter varies among the complete trials


def parallel(record: StudyRecord) -> Figure | None:
    """Parameters of the complete trials beside their scores."""
    if len(record.complete) < 2:
        return None
    return _optuna(optuna.visualization.plot_parallel_coordinate, record)


def slices(record: StudyRecord) -> Figure | None:
    """Score against each parameter."""
    if len(record.complete) < 2:
        return None
    figure = _optuna(optuna.visualization.plot_slice, record)
    figure.update_xaxes(nticks=5)
    return figure


def _optuna(plot: Callable[..., Any], record: StudyRecord) -> Figure:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = plot(record.study, target_name=record.metric)
    figure.update_layout(title=None)
    return go.Figure(_escaped(figure.to_dict()))


def _escaped(part: Any) -> Any:
    """With names and values of parameters as they are: plotly reads a little HTML in any text."""
    if isinstance(part, str):
        return escape(part, quote=False)
    if isinstance(part, dict):
        return {key: _escaped(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [_escaped(value) for value in part]
    return part
