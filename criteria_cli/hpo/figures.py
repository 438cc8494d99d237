"""The plots of the report, as plotly figures. A plot that the study is too young for is None."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from statistics import mean
from typing import Any

import optuna
import plotly.graph_objects as go

from criteria_cli.hpo.report_facts import EpochFact, StudyRecord

BEST = "#0b6e4f"
OTHER = "#9aa5b1"
ACCENT = "#c1440e"
PALETTE = ("#0b6e4f", "#c1440e", "#3d5a98", "#b58900", "#7b3f8c", "#2a9d8f", "#8a817c")
CURVES = 40
"""Learning curves drawn at most; the best trials among them."""
LEADERS = 15
MIN_FOR_IMPORTANCE = 4

Figure = Any  # plotly ships no types


@dataclass(frozen=True)
class Plot:
    """One section of the report."""

    key: str
    title: str
    words: str
    """What it shows and how to read it."""
    draw: Callable[[StudyRecord], Figure | None]


def history(record: StudyRecord) -> Figure | None:
    """Each finished trial's score and the best so far."""
    finished = [trial for trial in record.study.trials if trial.value is not None]
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
            marker={"color": OTHER, "symbol": "x-thin-open", "size": 7},
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
            y=names,
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
    return _optuna(optuna.visualization.plot_slice, record)


def _optuna(plot: Callable[..., Any], record: StudyRecord) -> Figure | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = plot(record.study, target_name=record.metric)
    figure.update_layout(title=None)
    return figure


def pruning(record: StudyRecord) -> Figure | None:
    """Trials stopped at each place, by reason."""
    if not record.cuts:
        return None
    places = sorted({(cut.fold, cut.epoch or 0) for cut in record.cuts})
    labels = [f"fold {fold}" + (f" epoch {epoch}" if epoch else "") for fold, epoch in places]
    figure = go.Figure()
    for index, reason in enumerate(sorted({cut.reason for cut in record.cuts})):
        counts = Counter((cut.fold, cut.epoch or 0) for cut in record.cuts if cut.reason == reason)
        figure.add_bar(
            x=labels,
            y=[counts[place] for place in places],
            name=escape(reason),
            marker={"color": PALETTE[index % len(PALETTE)]},
        )
    figure.update_layout(barmode="stack")
    figure.update_yaxes(title="trials stopped")
    return figure


def curves(record: StudyRecord) -> Figure | None:
    """Validation score by epoch, the mean over the folds that got so far."""
    if not record.epochs:
        return None
    by_trial: dict[int, list[EpochFact]] = defaultdict(list)
    for fact in record.epochs:
        by_trial[fact.trial].append(fact)
    best = [trial.number for trial in record.complete[:5]]
    others = [number for number in sorted(by_trial) if number not in best]
    step = max(1, len(others) // max(1, CURVES - len(best)))
    figure = go.Figure()
    for number in others[::step]:
        epochs, scores = _curve(by_trial[number])
        figure.add_scatter(
            x=epochs,
            y=scores,
            mode="lines",
            line={"color": OTHER, "width": 1},
            name=f"trial {number}",
            showlegend=False,
        )
    for index, number in enumerate(reversed(best)):
        epochs, scores = _curve(by_trial[number])
        figure.add_scatter(
            x=epochs,
            y=scores,
            mode="lines+markers",
            line={"color": PALETTE[(len(best) - 1 - index) % len(PALETTE)], "width": 2},
            name=f"trial {number}",
        )
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title=record.metric)
    return figure


def _curve(facts: Sequence[EpochFact]) -> tuple[list[int], list[float]]:
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for fact in facts:
        by_epoch[fact.epoch].append(fact.score)
    epochs = sorted(by_epoch)
    return epochs, [mean(by_epoch[epoch]) for epoch in epochs]


def spread(record: StudyRecord) -> Figure | None:
    """Fold scores of the best trials."""
    scores = record.fold_scores()
    best = [trial for trial in record.complete[:LEADERS] if len(scores.get(trial.number, [])) > 1]
    if not best:
        return None
    figure = go.Figure()
    for trial in best:
        figure.add_box(
            y=scores[trial.number],
            name=f"trial {trial.number}",
            boxpoints="all",
            pointpos=0,
            marker={"color": BEST if trial is best[0] else PALETTE[2]},
            showlegend=False,
        )
    figure.update_yaxes(title=f"{record.metric} of a fold")
    return figure


def criteria(record: StudyRecord) -> Figure | None:
    """Each criterion's F1 in the best trial, over its folds."""
    if not record.complete:
        return None
    number = record.complete[0].number
    scores: dict[str, list[float]] = defaultdict(list)
    for fold in record.folds:
        if fold.trial == number:
            for criterion, values in fold.per_criterion.items():
                if "f1" in values:
                    scores[criterion].append(values["f1"])
    if not scores:
        return None
    names = sorted(scores)
    means = [mean(scores[name]) for name in names]
    figure = go.Figure(
        go.Bar(
            x=[escape(name) for name in names],
            y=means,
            marker={"color": BEST},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [max(scores[n]) - m for n, m in zip(names, means, strict=True)],
                "arrayminus": [m - min(scores[n]) for n, m in zip(names, means, strict=True)],
                "color": "#444",
            },
        )
    )
    figure.update_yaxes(title="F1", range=[0, 1])
    return figure


def timeline(record: StudyRecord) -> Figure | None:
    """Which worker ran which trial when."""
    ended = [attempt for attempt in record.attempts if attempt.end_s is not None]
    if not ended:
        return None
    figure = go.Figure()
    unit, per = _unit(max(attempt.end_s or 0.0 for attempt in ended))
    for index, outcome in enumerate(sorted({attempt.outcome for attempt in ended})):
        own = [attempt for attempt in ended if attempt.outcome == outcome]
        figure.add_bar(
            y=[escape(attempt.worker) for attempt in own],
            x=[((attempt.end_s or 0.0) - attempt.start_s) / per for attempt in own],
            base=[attempt.start_s / per for attempt in own],
            orientation="h",
            name=escape(outcome or "unknown"),
            marker={
                "color": PALETTE[index % len(PALETTE)],
                "line": {"color": "white", "width": 1},
            },
            hovertext=[f"trial {attempt.trial}" for attempt in own],
        )
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(title=f"{unit} since the study began")
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


PLOTS = (
    Plot(
        "history",
        "History",
        "Every finished trial. A pruned trial stands at the mean of the folds it finished, which "
        "is not comparable with a complete one's.",
        history,
    ),
    Plot(
        "importance",
        "What matters",
        "How much of the score's variance among complete trials each parameter explains (fANOVA).",
        importance,
    ),
    Plot(
        "parallel",
        "Parameters together",
        "One line per complete trial; drag along an axis to select.",
        parallel,
    ),
    Plot("slices", "Parameters one by one", "Complete trials; darker is later.", slices),
    Plot(
        "pruning",
        "Where trials were stopped",
        "By the rule that stopped them.",
        pruning,
    ),
    Plot(
        "curves",
        "Learning curves",
        "Mean over the folds that reached the epoch; the five best trials in colour.",
        curves,
    ),
    Plot(
        "spread",
        "Fold spread of the best trials",
        "Trials whose boxes overlap are hardly to be told apart.",
        spread,
    ),
    Plot(
        "criteria",
        "Criteria",
        "F1 of each criterion in the best trial: mean over folds, with lowest and highest.",
        criteria,
    ),
    Plot("timeline", "Workers", "Every attempt at a trial, by worker.", timeline),
    Plot("cost", "Where the time went", "Summed over all finished folds.", cost),
)
"""The sections of the report, in order."""
