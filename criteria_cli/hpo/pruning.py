"""Whether a trial goes on, and why not.

The worker writes what a trial reports to the store, reads `Scores` back, and asks `judge`. Every
rule uses only what those scores and Optuna's trials held at that moment, so workers need not know
of each other, and a trial that another worker took over is judged like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import optuna

from criteria_cli.hpo.curves import look_epochs
from criteria_cli.hpo.hyperband import hyperband_pruner, hyperband_stops, needed, rungs_of
from criteria_cli.hpo.patience import incumbent_patience_stops, own_patience_stops
from criteria_cli.hpo.racing import standing
from criteria_cli.hpo.racing_pruner import RacingPruner
from criteria_cli.hpo.scores import Floats, Scores
from criteria_cli.study.pruning_rules import (
    counts_epochs,
    first_patience_fold,
    most_epochs,
    reported_steps,
)
from criteria_cli.study.spec import StudySpec
from criteria_cli.study.trial import EpochReport, FoldReport

Reason = Literal["hyperband", "patience", "racing", "median"]


@dataclass(frozen=True)
class Decision:
    """The answer to one report."""

    stop: bool
    reason: Reason | None = None
    """The rule that stopped the trial."""
    detail: Mapping[str, float | int] = field(default_factory=dict)
    """The numbers behind a stop: fold, epoch, the incumbent's trial and so on."""

    @property
    def words(self) -> str:
        """The rule and what it compared, in a few words."""
        found, rule = self.detail, str(self.reason)
        if "needed" in found:  # a fold's score stands beside this, an epoch's does not
            value = f" {found['value']:.4f}" if "epoch" in found else ""
            return f"{rule}{value} < {found['needed']:.4f}"
        if "chance" in found:
            return f"{rule}, chance {found['chance']:.1%}"
        return f"{rule}, behind trial {found['incumbent']}" if "incumbent" in found else rule


GO_ON = Decision(False)


def optuna_pruner(spec: StudySpec) -> optuna.pruners.BasePruner:
    """The pruner to open the study with; `judge` asks it through the trial."""
    match spec.pruner.type:
        case "hyperband" | "racing+hyperband":
            return hyperband_pruner(spec)
        case "median":
            return optuna.pruners.MedianPruner(
                n_startup_trials=max(spec.pruner.startup_trials, 1),
                n_warmup_steps=spec.pruner.min_resource,
            )
        case "racing":
            return RacingPruner(
                spec.validation.fold_count,
                most_epochs(spec),
                error_rate=spec.pruner.error_rate,
                startup_trials=spec.pruner.startup_trials,
            )
        case "none":
            return optuna.pruners.NopPruner()


def reads_epochs(spec: StudySpec) -> bool:
    """Whether a rule of this definition looks at single epochs, so that `Scores` needs them."""
    return spec.pruner.type.startswith("racing")


def reads_complete(spec: StudySpec) -> bool:
    """Whether a rule of this definition compares with trials that ran to the end; if not, and if no
    rule reads epochs, `Scores` need hold the trial's own alone."""
    return spec.pruner.patience is not None and spec.pruner.patience.against == "incumbent"


def asks(spec: StudySpec, event: EpochReport | FoldReport) -> bool:
    """Whether any rule of this definition looks at such a report; if not, the trial goes on."""
    if isinstance(event, FoldReport) or _step(spec, event) is not None:
        return True
    return reads_epochs(spec) and event.epoch in look_epochs(most_epochs(spec))


def reported(
    spec: StudySpec, event: EpochReport | FoldReport, finished: Mapping[int, float]
) -> tuple[float, int] | None:
    """What goes to `trial.report` for Optuna: (value, step), or None.

    The value estimates the objective: the mean over the finished folds, with the best epoch of the
    fold under way where steps are epochs. Steps count from 1: folds, or epochs through all folds
    as if each ran to its last, so that a fold that ends early does not shift the next. Racing
    reports the epochs that it looks at.

    Args:
        finished: the trial's finished folds by number; the event's own need not be among them.
    """
    step = _step(spec, event)
    if step is None:
        return None
    own = event.score if isinstance(event, FoldReport) else event.best
    before = [finished[fold] for fold in range(1, event.fold)]
    return float(np.mean([*before, own])), step


def _step(spec: StudySpec, event: EpochReport | FoldReport) -> int | None:
    if not counts_epochs(spec):
        return event.fold if isinstance(event, FoldReport) else None
    epochs = most_epochs(spec)
    if isinstance(event, FoldReport):
        return event.fold * epochs
    if event.epoch >= epochs:
        return None  # the fold report that follows has this step
    if spec.pruner.type == "racing" and event.epoch not in look_epochs(epochs):
        return None
    return (event.fold - 1) * epochs + event.epoch


def judge(
    study: optuna.Study,
    trial: optuna.trial.Trial,
    spec: StudySpec,
    history: Scores,
    event: EpochReport | FoldReport,
) -> Decision:
    """Whether the trial goes on after this report.

    Call it after `trial.report` of what `reported` gives. `history` may hold the event or not.
    The study must have been opened with `optuna_pruner(spec)`.
    """
    if _paid(spec, trial, event):
        return GO_ON
    folds, epochs = _own_scores(history, trial.number, event)
    if _answered(folds, epochs, event):
        return GO_ON
    # Optuna's pruner is asked even for a trial that is not stopped, to keep its value at a rung.
    optuna_stop = _ask_optuna(study, trial, spec, event)
    if trial.number < spec.pruner.startup_trials:
        return GO_ON
    stop = _ask_patience(spec, history, folds, event)
    if stop is None and reads_epochs(spec) and asks(spec, event):
        stop = _ask_racing(spec, trial.number, history, folds, epochs, event)
    if stop is None and optuna_stop:
        stop = _stopped_by_optuna(study, trial.number, spec, folds, event)
    return stop or GO_ON


def _paid(spec: StudySpec, trial: optuna.trial.Trial, event: EpochReport | FoldReport) -> bool:
    """Whether the trial has nothing left to run."""
    if event.fold < spec.validation.fold_count:
        return False
    if isinstance(event, FoldReport):
        return True
    return event.epoch >= spec.hyperparameters(trial.params).training.epochs


def _own_scores(
    history: Scores, number: int, event: EpochReport | FoldReport
) -> tuple[Floats, Floats]:
    """The trial's (K,) fold and (K, E) epoch scores with the event among them."""
    row = history.row(number)
    if row is None:
        folds = np.full(history.fold_count, np.nan)
        epochs = np.full((history.fold_count, history.epoch_count), np.nan)
    else:
        folds, epochs = history.folds[row].copy(), history.epochs[row].copy()
    if isinstance(event, FoldReport):
        folds[event.fold - 1] = event.score
    elif event.epoch <= epochs.shape[1]:
        epochs[event.fold - 1, event.epoch - 1] = event.score
    return folds, epochs


def _answered(folds: Floats, epochs: Floats, event: EpochReport | FoldReport) -> bool:
    """Whether the trial has gone past this report, which was therefore answered with `go on`."""
    at = event.fold - 1
    if np.isfinite(folds[event.fold :]).any() or np.isfinite(epochs[event.fold :]).any():
        return True
    if isinstance(event, FoldReport):
        return False
    return bool(np.isfinite(folds[at]) or np.isfinite(epochs[at, event.epoch :]).any())


def _ask_optuna(
    study: optuna.Study,
    trial: optuna.trial.Trial,
    spec: StudySpec,
    event: EpochReport | FoldReport,
) -> bool:
    step = _step(spec, event)
    if step is None or spec.pruner.type in ("none", "racing"):
        return False
    if spec.pruner.type == "median":
        return trial.should_prune()
    return hyperband_stops(study, trial, spec, step)


def _stopped_by_optuna(
    study: optuna.Study,
    number: int,
    spec: StudySpec,
    folds: Floats,
    event: EpochReport | FoldReport,
) -> Decision:
    if spec.pruner.type == "median":
        return Decision(True, "median", _where(event))
    told = reported(spec, event, dict(enumerate(folds.tolist(), start=1)))
    assert told is not None, "its pruner was asked about a report"
    numbers = {"value": told[0], "needed": needed(study, spec, number, *told)}
    return Decision(True, "hyperband", {**_where(event), **numbers})


def _ask_patience(
    spec: StudySpec, history: Scores, folds: Floats, event: EpochReport | FoldReport
) -> Decision | None:
    patience = spec.pruner.patience
    if patience is None or not isinstance(event, FoldReport):
        return None
    scores = folds[: event.fold]
    if patience.against == "self":
        stop = own_patience_stops(scores, patience.folds)
        return Decision(True, "patience", _where(event)) if stop else None
    if not incumbent_patience_stops(scores, history, patience.folds, patience.margin):
        return None
    assert history.incumbent is not None
    against = {"incumbent": int(history.number[history.incumbent])}
    return Decision(True, "patience", {**_where(event), **against})


def _ask_racing(
    spec: StudySpec,
    number: int,
    history: Scores,
    folds: Floats,
    epochs: Floats,
    event: EpochReport | FoldReport,
) -> Decision | None:
    found = standing(number, folds, epochs, history, spec.pruner.error_rate)
    if found is None or not found.stop:
        return None
    numbers = {
        "incumbent": found.incumbent,
        "forecast": found.forecast,
        "sd": found.sd,
        "chance": found.chance,
        "chance_before": found.chance_before,
    }
    return Decision(True, "racing", {**_where(event), **numbers})


def _where(event: EpochReport | FoldReport) -> dict[str, float | int]:
    if isinstance(event, EpochReport):
        return {"fold": event.fold, "epoch": event.epoch}
    return {"fold": event.fold}


@dataclass(frozen=True)
class Cut:
    """Where a trial may be stopped next."""

    fold: int
    epoch: int | None = None
    """None: after the fold."""


def next_cut(
    spec: StudySpec, study_name: str, number: int, *, fold: int, epoch: int | None = None
) -> Cut | None:
    """The next point at which a trial may be stopped; None if it runs to the end.

    Args:
        fold: the last fold reported, 0 before the first, or with `epoch` the fold under way.
        epoch: the last epoch reported of that fold, or None when the fold is finished.
    """
    if number < spec.pruner.startup_trials:
        return None
    epochs, folds = most_epochs(spec), spec.validation.fold_count
    behind = fold * epochs
    if epoch is not None:  # a fold whose last epoch is reported is still to be judged as a whole
        behind = min(behind - epochs + epoch, behind - 1)
    ahead = [at for at in _cuts(spec, study_name, number) if behind < at < folds * epochs]
    if not ahead:
        return None
    full, rest = divmod(min(ahead), epochs)
    return Cut(full + 1, rest) if rest else Cut(full)


def _cuts(spec: StudySpec, study_name: str, number: int) -> Iterator[int]:
    """Where a rule looks at the trial, in epochs through all folds; multiples are ends of folds."""
    epochs, folds = most_epochs(spec), spec.validation.fold_count
    step = 1 if counts_epochs(spec) else epochs
    if spec.pruner.type in ("hyperband", "racing+hyperband"):
        yield from (rung * step for rung in rungs_of(spec, study_name, number))
    if spec.pruner.type == "median":
        yield from (at * step for at in range(spec.pruner.min_resource, reported_steps(spec)))
    if reads_epochs(spec):
        looks = (*look_epochs(epochs), epochs)
        yield from (fold * epochs + look for fold in range(folds) for look in looks)
    first = first_patience_fold(spec)
    if first is not None:
        yield from (fold * epochs for fold in range(first, folds))
