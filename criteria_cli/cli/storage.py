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
    coming = wiring.pending_revisions(place.address)
    if not coming:
        tell(f"{place.shown} is up to date")
        return 0
    revisions = f"{count(len(coming), 'revision')} ({', '.join(coming)})"
    if not yes:
        tell(f"{place.shown} lacks {revisions}; stop all workers, make a backup, then add --yes")
        return 0
    wiring.upgrade_store(place.address)
    tell(f"{place.shown}: applied {revisions}")
    return 0
