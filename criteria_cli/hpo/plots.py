"""The sections of the report: which plots there are, what each shows and how to read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from criteria_cli.hpo import figures, fold_figures, work_figures
from criteria_cli.hpo.report_facts import StudyRecord


@dataclass(frozen=True)
class Plot:
    """One section of the report."""

    key: str
    title: str
    words: str
    """What it shows and how to read it."""
    draw: Callable[[StudyRecord], figures.Figure | None]


PLOTS = (
    Plot(
        "history",
        "History",
        "Every finished trial. A pruned trial stands at the mean of the folds it finished, which "
        "is not comparable with a complete one's.",
        figures.history,
    ),
    Plot(
        "importance",
        "What matters",
        "How much of the score's variance among complete trials each parameter explains (fANOVA).",
        figures.importance,
    ),
    Plot(
        "parallel",
        "Parameters together",
        "One line per complete trial; drag along an axis to select.",
        figures.parallel,
    ),
    Plot("slices", "Parameters one by one", "Complete trials; darker is later.", figures.slices),
    Plot(
        "pruning",
        "Where trials were stopped",
        "By the rule that stopped them.",
        fold_figures.pruning,
    ),
    Plot(
        "curves",
        "Learning curves",
        "Mean over the folds that reached the epoch; the five best trials in colour.",
        fold_figures.curves,
    ),
    Plot(
        "spread",
        "Fold spread of the best trials",
        "Trials whose boxes overlap are hardly to be told apart.",
        fold_figures.spread,
    ),
    Plot(
        "criteria",
        "Criteria",
        "F1 of each criterion in the best trial: mean over folds, with lowest and highest.",
        fold_figures.criteria,
    ),
    Plot(
        "calibration",
        "Calibration",
        "How often the best trial is right when it says 10%, 20% and so on, over its folds and "
        "before any calibration. On the dotted line a probability can be taken at its word; a "
        "larger dot stands for more pairs.",
        fold_figures.calibration,
    ),
    Plot("timeline", "Workers", "Every attempt at a trial, by worker.", work_figures.timeline),
    Plot("cost", "Where the time went", "Summed over all finished folds.", work_figures.cost),
)
"""The sections of the report, in order."""
