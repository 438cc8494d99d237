"""A study in the form that other trackers read: TensorBoard, MLflow, Weights & Biases.

Written from the store when somebody asks, so it works for any study, running or over, and costs a
search nothing. Numbers and settings only. MLflow and Weights & Biases write into a local folder;
nothing is sent anywhere.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from criteria_cli.errors import MachineError
from criteria_cli.hpo.report_facts import StudyRecord


@dataclass(frozen=True)
class TrackedTrial:
    """What a tracker gets of a finished trial."""

    number: int
    state: str
    """`complete`, `pruned` or `failed`."""
    params: Mapping[str, Any]
    score: float | None
    curves: Mapping[int, tuple[tuple[int, float], ...]]
    """(epoch, validation score) by fold."""
    folds: Mapping[int, float]
    """A finished fold's score."""

    @property
    def name(self) -> str:
        return f"trial-{self.number}"


def tracked(record: StudyRecord) -> Iterator[TrackedTrial]:
    """Every finished trial."""
    curves: dict[int, dict[int, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for epoch in record.epochs:
        curves[epoch.trial][epoch.fold].append((epoch.epoch, epoch.score))
    folds: dict[int, dict[int, float]] = defaultdict(dict)
    for fold in record.folds:
        folds[fold.trial][fold.fold] = fold.score
    for trial in record.finished:
        score = trial.value if trial.value is not None and math.isfinite(trial.value) else None
        yield TrackedTrial(
            number=trial.number,
            state={"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower()),
            params=trial.params,
            score=score,
            curves={fold: tuple(found) for fold, found in curves[trial.number].items()},
            folds=folds[trial.number],
        )


def write_tensorboard(record: StudyRecord, folder: Path) -> None:
    """Event files, one run per trial: `tensorboard --logdir FOLDER`.

    Raises:
        MachineError: tensorboardX is missing.
    """
    module = require("tensorboard")
    for trial in tracked(record):
        with module.SummaryWriter(str(folder / trial.name), write_to_disk=True) as writer:
            for fold, curve in trial.curves.items():
                for epoch, score in curve:
                    writer.add_scalar(f"{record.metric}/fold-{fold}", score, epoch)
            for fold, score in trial.folds.items():
                writer.add_scalar(f"{record.metric}/by-fold", score, fold)
            if trial.score is not None:
                writer.add_scalar(f"{record.metric}/trial", trial.score, 0)
            text = "  \n".join(f"{key} = {value}" for key, value in trial.params.items())
            writer.add_text("parameters", text or "none", 0)


def write_mlflow(record: StudyRecord, folder: Path) -> None:
    """An MLflow database, one run per trial: `mlflow ui --backend-store-uri sqlite:///FILE`.

    Raises:
        MachineError: mlflow is missing.
    """
    mlflow = require("mlflow")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    place = folder.absolute()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{place}/mlflow.db")
    experiment = client.create_experiment(
        record.study.study_name, artifact_location=(place / "artifacts").as_uri()
    )
    for trial in tracked(record):
        run = client.create_run(experiment, run_name=trial.name, tags={"state": trial.state})
        for key, value in trial.params.items():
            client.log_param(run.info.run_id, key, value)
        for fold, curve in trial.curves.items():
            for epoch, score in curve:
                client.log_metric(run.info.run_id, f"fold-{fold}", score, step=epoch)
        if trial.score is not None:
            client.log_metric(run.info.run_id, record.metric, trial.score)
        client.set_terminated(run.info.run_id, "FAILED" if trial.state == "failed" else "FINISHED")


def write_wandb(record: StudyRecord, folder: Path) -> None:
    """Offline runs of Weights & Biases, grouped by study; `wandb sync` sends them, if you wish.

    Raises:
        MachineError: wandb is missing.
    """
    wandb = require("wandb")
    for trial in tracked(record):
        run = wandb.init(
            mode="offline",
            dir=str(folder),
            project="criteria",
            group=record.study.study_name,
            name=trial.name,
            config=dict(trial.params),
            tags=[trial.state],
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True,
                x_disable_stats=True, x_disable_meta=True,
            ),
        )  # fmt: skip
        for fold, curve in trial.curves.items():
            for epoch, score in curve:
                run.log({f"fold-{fold}": score, "epoch": epoch})
        if trial.score is not None:
            run.summary[record.metric] = trial.score
        run.finish()


WRITERS: dict[str, Callable[[StudyRecord, Path], None]] = {
    "tensorboard": write_tensorboard,
    "mlflow": write_mlflow,
    "wandb": write_wandb,
}
PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


def require(tracker: str) -> ModuleType:
    """The tracker's package.

    Raises:
        MachineError: it is missing.
    """
    import importlib

    name = PACKAGES[tracker]
    try:
        module = importlib.import_module(name)
    except ImportError:
        module = None
    # a folder of that name here, such as an earlier report's, passes for an empty package
    if module is None or getattr(module, "__file__", None) is None:
        raise MachineError(
            f"this needs {name}: pip install 'criteria[{tracker}]'", code="machine.package"
        )
    return module
