"""The one place that picks implementations: the command line calls nothing deeper.

Heavy libraries are imported inside the functions, so that `--help` pays for none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from criteria_cli.data.summary import DataSummary
    from criteria_cli.hpo.events import Observer
    from criteria_cli.hpo.facts import StudyStatus
    from criteria_cli.hpo.options import SearchOptions, SearchResult
    from criteria_cli.study.files import Definition
    from criteria_cli.training.host import HostMemory
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
    from criteria_cli.hpo import supervisor

    return supervisor.search(definition, options, observer)


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


def study_names(storage: str) -> tuple[str, ...]:
    """Names for shell completion; empty where the store cannot be read."""
    from criteria_cli.hpo import status

    return status.study_names(storage)


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
