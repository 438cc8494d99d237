"""`criteria report`: a study as one HTML file, or as pictures."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from criteria_cli.cli.answers import print_json
from criteria_cli.cli.arguments import Json, Out, Overwrite, Storage, _complete_name
from criteria_cli.cli.environment import runs_directory
from criteria_cli.cli.layout import line, show
from criteria_cli.cli.store import store

NAME = "report"
EXAMPLES = (
    "\b\nExamples:\n"
    "  criteria report demo\n"
    "  criteria report demo --out demo.html\n"
    "  criteria report demo --format png --out figures\n"
    "  criteria report demo --format tensorboard --out tensorboard"
)


class Format(StrEnum):
    """What is written."""

    HTML = "html"
    PNG = "png"
    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


def command(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The study.", autocompletion=_complete_name),
    ],
    storage: Storage = None,
    kind: Annotated[
        Format,
        typer.Option(
            "--format",
            help="One page, pictures for a paper, or a folder for a tracker; nothing is sent.",
        ),
    ] = Format.HTML,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> int:
    """Write a self-contained page about a study: it opens offline and asks nobody for anything."""
    from criteria_cli import wiring

    place = store(storage)
    folder = runs_directory() / name
    # what we put in the study's own folder we may renew
    renew = overwrite or out is None
    if kind is Format.HTML:
        target = Path(out) if out is not None else folder / "report.html"
        written = [wiring.write_report(place.address, name, target, overwrite=renew)]
    elif kind is not Format.PNG:
        target = Path(out) if out is not None else folder / kind
        written = [wiring.write_tracked(place.address, name, target, kind, overwrite=renew)]
    else:
        target = Path(out) if out is not None else folder / "figures"
        written = wiring.write_figures(place.address, name, target, overwrite=renew)
    if as_json:
        print_json({"schema": "criteria.report/1", "files": [str(path) for path in written]})
    else:
        show([line(str(path)) for path in written])
    return 0
