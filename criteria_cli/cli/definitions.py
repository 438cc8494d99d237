"""Reading the study that a command names, with the command's flags laid over it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from criteria_cli.cli.failures import warn

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
    """See `study.single.refuse_searched`."""
    from criteria_cli.study import single

    single.refuse_searched(definition)


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
