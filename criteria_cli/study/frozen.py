"""The definition behind a study's trials: what its store froze, not what a file says by now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from criteria_cli.study.files import Definition
from criteria_cli.study.spec import LOCAL_KEYS, Hyperparameters, StudySpec, flatten


def as_frozen(definition: Definition, frozen: StudySpec) -> Definition:
    """A study's definition as its store has it, for work on its trials.

    Of `definition` remain the local settings and what the command line gave; a file that was
    edited since the study was made, or `--set` that made it, change nothing.
    """
    own = definition.sources
    origin = f"study {definition.spec.name}"
    kept = {
        key: value
        for key, value in flatten(definition.spec.to_json())
        if key in LOCAL_KEYS
        or (own.get(key, "default").startswith("--") and not key.startswith("search."))
    }
    sources = {key: origin for key, _ in flatten(frozen.to_json())}
    sources |= {key: own.get(key, "default") for key in kept}
    return Definition(_with(frozen, kept), sources, definition.path, definition.base)


def as_sampled(definition: Definition, trained: Hyperparameters, origin: str) -> Definition:
    """The definition with the values that a trial sampled, which come from `origin`."""
    own = dict(flatten(definition.spec.to_json()))
    sampled = {key: value for key, value in flatten(trained.to_json()) if own[key] != value}
    sources = {**definition.sources, **dict.fromkeys(sampled, origin)}
    return replace(definition, spec=_with(definition.spec, sampled), sources=sources)


def _with(spec: StudySpec, settings: Mapping[str, Any]) -> StudySpec:
    """The definition with other settings, by dotted key."""
    values = spec.to_json()
    for key, value in settings.items():
        *tables, last = key.split(".")
        inner = values
        for table in tables:
            inner[table] = inner[table] or {}
            inner = inner[table]
        inner[last] = value
    return StudySpec.from_json(values)
