"""The one place that picks implementations: the command line calls nothing deeper.

Heavy libraries are imported inside the functions, so that `--help` pays for none.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from criteria_cli.failpoints import TESTING

if TYPE_CHECKING:
    from pathlib import Path

    from criteria_cli.data.summary import DataSummary
    from criteria_cli.hpo.events import Observer
    from criteria_cli.hpo.facts import StudyStatus
    from criteria_cli.hpo.options import SearchOptions, SearchResult
    from criteria_cli.hpo.report_facts import StudyRecord
    from criteria_cli.hpo.upgrade import UpgradePlan
    from criteria_cli.study.files import Definition
    from criteria_cli.study.final import TrainedModel, TrainOrder
    from criteria_cli.study.prediction import PredictOrder, PredictReport, PredictResult
    from criteria_cli.study.trial import Report
    from criteria_cli.training.host import HostMemory
    from criteria_cli.training.probe import Probed, Unusable
    from criteria_cli.training.visible import DeviceFacts


def search(definition: Definition, options: SearchOptions, observer: Observer) -> SearchResult:
    """Start or join a study and run it until its budget is spent.

    Checks the data, prepares the store and freezes or compares the study's identity before the
    first trial. Handles SIGINT, SIGTERM, SIGHUP and SIGUSR1 while it runs; call it from the main
    thread.

    Raises:
        UsageError: the definition, data or flags cannot be used, or differ from the study's.
        MachineError: no such device, no disk, a missing package.
        StoreError: the store cannot be reached, is damaged or has another schema.
        Saved: a signal stopped it; everything is saved and the same command goes on (exit 75).
        WorkError: three failures in a row on this machine, or the study is paused by failures.
        KeyboardInterrupt: the second Ctrl-C.
    """
    from criteria_cli.data.formats import load_corpus
    from criteria_cli.hpo import supervisor
    from criteria_cli.hpo.device_locks import Card
    from criteria_cli.training import requirements, threads

    requirements.require_torch()
    corpus = load_corpus(definition.spec.data, definition.base)
    asks_for_cards = options.device != "cpu"
    machine = supervisor.Machine(
        cards=[Card(card.device, card.identity, card.name) for card in visible_devices()]
        if asks_for_cards
        else [],
        command=_trainer_command(),
        environment=lambda count: {**_without_secrets(), **threads.environment(count)},
        threads=threads.share,
        data_sha256=corpus.sha256,
        pairs=len(corpus),
    )
    return supervisor.search(definition, options, observer, machine)


SECRETS = ("CRITERIA_STORAGE", "PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE")


def _without_secrets() -> dict[str, str]:
    """This environment without the way to the store: a trainer has no database."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS}


def rehearse_search(
    definition: Definition, options: SearchOptions, data: DataSummary
) -> dict[str, str]:
    """What a search would find, in words by subject; nothing is written, loaded or fetched.

    Raises:
        UsageError: the model cannot be used, or the study in the store differs.
        MachineError: no such device, or results cannot be written.
        StoreError: the store cannot be used.
    """
    from criteria_cli.hpo import rehearsal
    from criteria_cli.training import rehearsal as training
    from criteria_cli.training import requirements

    requirements.require_torch()
    spec = definition.spec
    return {
        "store": rehearsal.rehearse(
            options.storage, spec, data.sha256, data.pairs, options.runs / spec.name
        ),
        "device": training.rehearse_device(options.device),
        "model": training.rehearse_model(spec.model),
    }


def _trainer_command() -> list[str]:
    """How a trainer is started; tests put a stand-in in its place."""
    stand_in = os.environ.get("CRITERIA_TRAINER")
    if TESTING and stand_in:
        return [sys.executable, stand_in]
    return [sys.executable, "-m", "criteria_cli.training.serve"]


def study_status(storage: str, name: str) -> StudyStatus:
    """One study now; read-only, and fast at ten thousand trials.

    Raises:
        UsageError: no study of this name, naming those that exist.
        StoreError: the store cannot be read.
    """
    from criteria_cli.hpo import status

    return status.read_study(storage, name)


def all_studies(storage: str) -> tuple[StudyStatus, ...]:
    """Every study of a store, the latest first."""
    from criteria_cli.hpo import status

    return status.read_studies(storage)


def planned_upgrade(storage: str) -> UpgradePlan:
    """What `upgrade_store` would do, and which workers still run; read-only.

    Raises:
        StoreError: it holds no studies, cannot be read, or is newer than this criteria.
    """
    from criteria_cli.hpo import upgrade

    return upgrade.plan(storage)


def upgrade_store(storage: str) -> UpgradePlan:
    """Bring our tables to the newest revision; Optuna's are not touched.

    Raises:
        UsageError: workers still run.
        StoreError: as `planned_upgrade`.
    """
    from criteria_cli.hpo import upgrade

    return upgrade.upgrade(storage)


def study_names(storage: str) -> tuple[str, ...]:
    """Names for shell completion; empty where the store cannot be read."""
    from criteria_cli.hpo import status

    return status.study_names(storage)


def storage_address(storage: str | None) -> str:
    """The store's address from a URL, the environment or the default; may hold a password.

    Raises:
        UsageError: not a URL we read.
    """
    from criteria_cli.hpo.url import read_url, storage_url

    url = storage_url(None) if storage is None else read_url(storage)
    return url.sqlalchemy.render_as_string(hide_password=False)


def study_record(storage: str, name: str) -> StudyRecord:
    """Everything that the store says of a study, its finished trials among it.

    Raises:
        UsageError: no study of this name, naming those that exist.
        StoreError: the store cannot be read.
    """
    from criteria_cli.hpo import selection

    return selection.study_record(storage, name)


def describe_data(definition: Definition) -> DataSummary:
    """Counts, folds and the baseline of a definition's data.

    Raises:
        UsageError: the data cannot be used; names file, row and column.
    """
    from criteria_cli.data import summary

    return summary.summarise(definition)


def visible_devices() -> tuple[DeviceFacts, ...]:
    """The GPUs of this machine; empty where there are none.

    Raises:
        MachineError: the driver does not answer.
    """
    from criteria_cli.training import visible

    return visible.visible_devices()


def host_memory() -> HostMemory:
    """What a process of this machine may hold."""
    from criteria_cli.training import host

    return host.memory_limit()


def write_report(storage: str, name: str, path: Path, *, overwrite: bool) -> Path:
    """Write a study's page.

    Raises:
        UsageError: no such study, or the file exists.
        StoreError: the store cannot be read.
    """
    from criteria_cli.hpo import report

    return report.write_html(storage, name, path, overwrite=overwrite)


def write_tracked(storage: str, name: str, folder: Path, tracker: str, *, overwrite: bool) -> Path:
    """Write a study for `tensorboard`, `mlflow` or `wandb`; nothing is sent.

    Raises:
        UsageError: no such study, or the folder exists.
        MachineError: the tracker's package is missing.
        StoreError: the store cannot be read.
    """
    from criteria_cli.hpo import report

    return report.write_tracked(storage, name, folder, tracker, overwrite=overwrite)


def write_figures(storage: str, name: str, folder: Path, *, overwrite: bool) -> list[Path]:
    """Write a study's plots as PNG files.

    Raises:
        UsageError: no such study, or the folder exists.
        MachineError: matplotlib is missing.
        StoreError: the store cannot be read.
    """
    from criteria_cli.hpo import report

    return report.write_png(storage, name, folder, overwrite=overwrite)


def probe_devices(
    definition: Definition, device: str, *, refresh: bool
) -> tuple[Probed | Unusable, ...]:
    """What fits on one device, or with `auto` on every visible one.

    Raises:
        MachineError: no such device, or not one pair fits.
        UsageError: the model or the headroom cannot be used.
    """
    from criteria_cli.training import probe, requirements

    requirements.require_torch()
    return probe.probe_all(definition.spec, device, refresh=refresh)


def as_frozen(definition: Definition, storage: str) -> Definition:
    """The definition of a study in a store, with what is this command's own; see
    `study.frozen.as_frozen`.

    Raises:
        UsageError: no such study.
        StoreError: the store cannot be read.
    """
    from criteria_cli.hpo import selection
    from criteria_cli.study import frozen

    return frozen.as_frozen(definition, selection.frozen_spec(storage, definition.spec.name))


def order_from_trial(order: TrainOrder, storage: str, which: int | Literal["best"]) -> TrainOrder:
    """The order with the settings of a study's trial.

    Raises:
        UsageError: no such study or trial.
        StoreError: the store cannot be read.
    """
    from criteria_cli.hpo import selection
    from criteria_cli.hpo.trouble import trusting

    chosen = selection.select(storage, order.spec.name, which)
    without = chosen.without
    with trusting(order.spec.name):  # a parameter may be one that no definition has
        return replace(
            order,
            hyperparameters=order.spec.hyperparameters(chosen.params),
            origin=f"trial {chosen.trial} of study {order.spec.name}",
            trial=chosen.trial,
            search_score=chosen.score,
            chosen_without=None
            if without is None
            else tuple(order.spec.hyperparameters(params) for params in without),
        )


def train(order: TrainOrder, report: Report) -> TrainedModel:
    """Train all folds and the final model, and write the model directory.

    Raises:
        UsageError: the data or the model cannot be used.
        MachineError: no such device, or too little memory or disk.
        Saved: `report` asked to stop; everything is saved and the same order goes on.
        TrialFailed: with its cause.
    """
    from criteria_cli.training import final, requirements

    requirements.require_torch()
    return final.train(order, report)


def predict(order: PredictOrder, report: PredictReport) -> PredictResult:
    """Score the posts of one file.

    Raises:
        UsageError: the model or the file cannot be used.
        Saved: `report` asked to stop; the same order goes on.
    """
    from criteria_cli.training import prediction_files, requirements

    requirements.require_torch()
    return prediction_files.predict_file(order, report)
