"""`criteria probe-vram`: what fits on this machine's devices, and what a trial will cost."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from criteria_cli.cli.answers import print_json
from criteria_cli.cli.arguments import (
    Data,
    DeviceName,
    Headroom,
    Json,
    Settings,
    _complete_study,
    flags,
)
from criteria_cli.cli.definitions import definition_of
from criteria_cli.cli.layout import show, width_of
from criteria_cli.errors import CriteriaError

if TYPE_CHECKING:
    from criteria_cli.data.summary import DataSummary
    from criteria_cli.study.files import Definition

NAME = "probe-vram"
EXAMPLES = (
    "\b\nExamples:\n"
    "  criteria probe-vram demo\n"
    "  criteria probe-vram pc_ce --device cuda:0 --headroom 2GiB\n"
    "  criteria probe-vram my.toml --refresh --json"
)
DEFAULT_STUDY = "optuna"


def command(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            show_default=False,
            help=f"The study file or bundled definition; `{DEFAULT_STUDY}` without it.",
            autocompletion=_complete_study,
        ),
    ] = DEFAULT_STUDY,
    data: Data = None,
    device: DeviceName = "auto",
    headroom: Headroom = None,
    settings: Settings = None,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh", show_default=False, help="Measure again, whatever is known already."
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Measure what fits on this machine's devices, and what a trial will cost."""
    from criteria_cli import wiring
    from criteria_cli.cli.probe_screen import probe_document, probe_screen

    definition = definition_of(
        study,
        settings,
        flags(
            data=("--data", "data.path", data),
            headroom=("--headroom", "training.vram_headroom", headroom),
        ),
    )
    found = wiring.probe_devices(definition, device, refresh=refresh)
    if as_json:
        print_json(probe_document(found, definition.spec))
    else:
        summary = _data(definition)
        show(probe_screen(found, definition.spec, summary, width_of(sys.stdout)))
    return 0


def _data(definition: Definition) -> DataSummary | None:
    """The data's counts for the estimate of time; a card can be probed before there is any."""
    from criteria_cli import wiring

    try:
        return wiring.describe_data(definition)
    except CriteriaError:
        return None
