"""Reading the study that a command names, with the command's flags laid over it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from criteria_cli.cli.failures import warn
from criteria_cli.errors import UsageError

if TYPE_CHECKING:
    from criteria_cli.data.summary import DataSummary
    from criteria_cli.study.files import Definition


def definition_of(
    study: str, settings: Sequence[str] | None, flags: Mapping[str, tuple[str, Any]]
) -> Definition:
    """The resolved definition."""
    from criteria_cli.study.files import load_definition

    return load_definition(study, settings=settings or (), flags=flags)


def refuse_searched(definition: Definition) -> None:
    """A setting given on the command line that every trial samples anew would do nothing.

    Raises:
        UsageError: naming it, and how to fix it to one value.
    """
    from criteria_cli.study.spec import setting_key

    for name in definition.spec.search:
        source = definition.sources.get(setting_key(name), "")
        if source.startswith("--"):
            raise UsageError(
                f"`{source}` sets `{setting_key(name)}`, but every trial samples it",
                hint=f"--set 'search.{name}={{choices=[VALUE]}}' fixes it",
                code="usage.searched",
            )


def described_data(definition: Definition) -> DataSummary:
    """The data's counts, with its warnings on standard error."""
    from criteria_cli import wiring

    data = wiring.describe_data(definition)
    for message in data.warnings:
        warn(message)
    return data


def tell(text: str) -> None:
    """A line for the person, on standard error."""
    sys.stderr.write(f"{text}\n")
