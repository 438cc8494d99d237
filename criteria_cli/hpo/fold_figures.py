"""Plots of what happened inside trials: folds, epochs, criteria, probabilities."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from html import escape
from statistics import mean

import plotly.graph_objects as go

from criteria_cli.hpo.figures import BEST, OTHER, PALETTE, Figure
from criteria_cli.hpo.report_facts import EpochFact, StudyRecord

CURVES = 40
"""Learning curves drawn at most; the best trials among them."""
LEADERS = 15


def whole_steps(most: int) -> int | None:
    """Ticks at every whole number where there are few; None leaves it to plotly."""
    return 1 if most <= 12 else None


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
    figure.update_layout(barmode="stack", showlegend=True)
    figure.update_yaxes(title="trials stopped", dtick=whole_steps(len(record.cuts)))
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
    longest = max(fact.epoch for fact in record.epochs)
    figure.update_xaxes(title="epoch", dtick=whole_steps(longest))
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


def reliability(record: StudyRecord) -> list[tuple[float, float, int]]:
    """The best trial's predicted probabilities in bins, over its folds: mean probability, share
    of positives, pairs. Empty where its trainer reported none.
    """
    number = record.complete[0].number if record.complete else None
    bins: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for fold in record.folds:
        for pairs, probability, positives in fold.reliability if fold.trial == number else ():
            found = bins[min(9, int(probability * 10))]
            for place, value in enumerate((pairs, pairs * probability, positives)):
                found[place] += value
    return [
        (total / pairs, positives / pairs, int(pairs))
        for _, (pairs, total, positives) in sorted(bins.items())
    ]


def calibration_error(bins: Sequence[tuple[float, float, int]]) -> float:
    """The expected calibration error (Guo et al., 2017), in [0, 1]."""
    pairs = sum(count for _, _, count in bins)
    return sum(count * abs(said - true) for said, true, count in bins) / pairs


def calibration(record: StudyRecord) -> Figure | None:
    """A reliability diagram of the best trial."""
    bins = reliability(record)
    if not bins:
        return None
    said, true, counts = zip(*bins, strict=True)
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": OTHER, "dash": "dot"}, showlegend=False
    )
    figure.add_scatter(
        x=said,
        y=true,
        mode="lines+markers",
        line={"color": BEST},
        marker={"size": [dot_size(count, max(counts)) for count in counts]},
        text=[f"{count} pairs" for count in counts],
        showlegend=False,
    )
    figure.add_annotation(
        x=0.02,
        y=0.98,
        showarrow=False,
        xanchor="left",
        text=f"expected calibration error {calibration_error(bins):.3f}",
    )
    figure.update_xaxes(title="predicted probability", range=[0, 1])
    figure.update_yaxes(title="share that is positive", range=[0, 1])
    return figure


def dot_size(count: int, most: int) -> float:
    """A marker whose area grows with the pairs behind it, 5 to 22 points wide."""
    return float(max(5.0, 22.0 * (count / most) ** 0.5))
