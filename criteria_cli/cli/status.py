"""`criteria status`: what the store knows, and nothing else. Looking changes nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from criteria_cli.cli.answers import print_json
from criteria_cli.cli.arguments import Json, Storage, _complete_name, seconds
from criteria_cli.cli.drawing import Block
from criteria_cli.cli.layout import Line, is_terminal, show, width_of
from criteria_cli.cli.store import Store, store

NAME = "status"
EXAMPLES = (
    "\b\nExamples:\n  criteria status\n  criteria status demo --watch\n  criteria status --check"
)
UNHEALTHY = 5

Screen = tuple[list[Line], dict[str, Any], bool]
"""Lines for people, a document for programs, and whether all is well."""


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            show_default=False,
            help="A study; all of them without it.",
            autocompletion=_complete_name,
        ),
    ] = None,
    storage: Storage = None,
    watch: Annotated[
        float | None,
        typer.Option(
            "--watch",
            metavar="[=SECONDS]",
            parser=seconds,
            show_default=False,
            help="Redraw every 2 seconds, or as often as said, until Ctrl-C.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", show_default=False, help="Exit with 5 if a person should do something."
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Show all studies of a store, or one in detail."""
    place = store(storage)

    def read(width: int | None) -> Screen:
        return _one(place, name, width) if name is not None else _all(place, width)

    if watch is not None:
        return _watch(read, watch, as_json=as_json)
    lines, document, healthy = read(width_of(sys.stdout))
    if as_json:
        print_json(document)
    else:
        show(lines)
    return UNHEALTHY if check and not healthy else 0


def _one(place: Store, name: str, width: int | None) -> Screen:
    from criteria_cli import wiring
    from criteria_cli.cli.status_screen import study_screen

    study = wiring.study_status(place.address, name)
    return study_screen(study, place.shown, width), study.to_json(), study.healthy


def _all(place: Store, width: int | None) -> Screen:
    from criteria_cli import wiring
    from criteria_cli.cli.studies_screen import studies_screen
    from criteria_cli.hpo.facts import studies_to_json

    studies = wiring.all_studies(place.address)
    now = studies[0].now if studies else ""
    lines = studies_screen(studies, place.shown, width)
    return lines, studies_to_json(studies, now), all(study.healthy for study in studies)


def _watch(read: Callable[[int | None], Screen], pause_s: float, *, as_json: bool) -> int:
    """Redraw until Ctrl-C; into a pipe a block per look, as JSON a line per look."""
    block = Block(sys.stdout) if is_terminal(sys.stdout) and not as_json else None
    try:
        while True:
            width = width_of(sys.stdout) if block is None else block.width
            lines, document, _ = read(width)
            if block is not None:
                # the last one stays when we leave
                block.draw(lines, ending=len(lines))  # there stands what a person is to do
            elif as_json:
                print_json(document, indent=None)
            else:
                show([*lines, Line()])
            time.sleep(pause_s)
    except KeyboardInterrupt:
        return 0
