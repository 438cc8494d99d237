"""How long things may take; tests shorten it by `CRITERIA_TIMINGS`, under `CRITERIA_TESTING`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from criteria_cli.failpoints import TESTING


@dataclass(frozen=True)
class Timings:
    """Seconds, all of them."""

    lease: float = 90.0
    """A worker that has not renewed for so long has lost its trial."""
    beat: float = 15.0
    """Between renewals."""
    ping: float = 5.0
    """Between words to the trainers."""
    progress: float = 600.0
    """A trainer that says nothing for so long is stuck."""
    patience: float = 1800.0
    """How long the store may be away."""
    answer: float = 2.0
    """How long a trainer waits for the pruner before it goes on."""
    drain: float = 120.0
    """What saving may take after a signal."""
    poll: float = 2.0
    """Between looks at a study whose last trials others run."""
    view: float = 2.0
    """Between reads of the study for the display."""

    @property
    def silence(self) -> float:
        """A trainer that hears nothing for so long ends, well before its trial can be taken."""
        return self.lease * 0.6


def timings(environ: Mapping[str, str] = os.environ) -> Timings:
    """The timings of this process: `CRITERIA_DRAIN_S` is for schedulers with a short grace."""
    values: dict[str, float] = {}
    drain = environ.get("CRITERIA_DRAIN_S")
    if drain is not None:
        values["drain"] = float(drain)
    if TESTING:
        names = {field.name for field in fields(Timings)}
        for item in filter(None, environ.get("CRITERIA_TIMINGS", "").split(",")):
            name, _, value = item.partition("=")
            if name in names:
                values[name] = float(value)
    return Timings(**values)
