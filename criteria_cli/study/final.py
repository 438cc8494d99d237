"""The words of `criteria train`: what is ordered, and what comes back.

While it works it reports the events of a trial (`study/trial.py`), folds counted from 1; the final
model, trained on all data, reports as the fold after the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from criteria_cli.study.spec import Hyperparameters, StudySpec


@dataclass(frozen=True)
class TrainOrder:
    """Fine-tune one configuration: all folds, then the model on all data."""

    spec: StudySpec
    hyperparameters: Hyperparameters
    base: Path
    """The folder that relative data paths of the definition start from."""
    directory: Path
    """The study's own folder, `runs/NAME`: caches and what a stopped run goes on from."""
    out: Path
    """The model directory to write."""
    overwrite: bool = False
    device: str = "auto"
    threads: int = 1
    seed: int = 42
    origin: str = "the definition's own settings"
    """Where the hyperparameters come from, such as `trial 17 of study pc_ce`."""
    trial: int | None = None
    """The study's trial that they are, if they are one."""
    search_score: float | None = None
    """That trial's score in the search: chosen by, and measured on, the same folds."""
    chosen_without: tuple[Hyperparameters, ...] | None = None
    """For each fold, the settings that the search would have chosen without that fold's scores. The
    nested estimate uses them; without them `hyperparameters` stands for each."""


@dataclass(frozen=True)
class TrainedModel:
    """What `criteria train` made."""

    model_dir: Path
    metrics: Mapping[str, Any]
    """`nested`, `optimistic` and `search`: estimates by how honest they are, see `docs/models.md`;
    beside them `intervals`, `evidence` (None without annotations) and `abstaining`."""
    per_criterion: Mapping[str, Mapping[str, Any]]
    """The nested estimate by criterion id, with intervals."""
    folds: tuple[Mapping[str, Any], ...] = ()
    seconds: float = 0.0
    report: Mapping[str, Any] = field(default_factory=dict)
    """Everything that `criteria.json` records."""
