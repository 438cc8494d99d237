"""`criteria storage upgrade`: an older store for a newer criteria."""

from __future__ import annotations

from typing import Annotated

import typer

from criteria_cli.cli.arguments import Storage
from criteria_cli.cli.definitions import tell
from criteria_cli.cli.store import store
from criteria_cli.cli.words import count

NAME = "upgrade"
EXAMPLES = "\b\nExamples:\n  criteria storage upgrade\n  criteria storage upgrade --yes"


def command(
    storage: Storage = None,
    yes: Annotated[
        bool, typer.Option("--yes", show_default=False, help="Do it; without this, only say.")
    ] = False,
) -> int:
    """Say what an upgrade of our tables would do, and with --yes do it. Optuna's stay as they are.

    Stop all workers first, and make a backup.
    """
    from criteria_cli import wiring

    place = store(storage)
    plan = wiring.planned_upgrade(place.address)
    if not plan.steps:
        tell(f"{place.shown} is up to date")
        return 0
    for revision, subject in plan.steps:
        tell(f"revision {revision}: {subject}")
    if not yes:
        running = f"{count(len(plan.live_workers), 'worker')} still running; "
        stop = running if plan.live_workers else ""
        tell(f"{stop}stop all workers of {place.shown}, make a backup, then add --yes")
        return 0
    wiring.upgrade_store(place.address)
    tell(f"{place.shown}: applied {count(len(plan.steps), 'revision')}")
    return 0
