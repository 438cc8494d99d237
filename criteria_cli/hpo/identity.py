"""What every worker of a study must agree on: settings, data, and versions that change results."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from shlex import quote
from typing import Any

import sqlalchemy as sa

from criteria_cli import __version__
from criteria_cli.errors import UsageError
from criteria_cli.hpo.trouble import trusting
from criteria_cli.study.spec import StudySpec

PACKAGES = ("optuna", "torch", "transformers", "numpy")
MAJOR_MATTERS = ("optuna", "torch", "transformers")
"""A study whose workers differ here would mix trials that cannot be compared."""


SHOWN = 4
"""Differences that an error lists one by one."""


@dataclass(frozen=True)
class Identity:
    """A study as one worker would run it."""

    spec: StudySpec
    data_sha256: str
    pairs: int
    versions: Mapping[str, str]

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting that is not local, by dotted key. The name is the study's own."""
        return {key: value for key, value in self.spec.identity().items() if key != "name"}


@dataclass(frozen=True)
class Difference:
    """One key that two workers would not agree on."""

    key: str
    stored: Any
    here: Any

    def __str__(self) -> str:
        return f"`{self.key}` ({_shown(self.stored)} in the study, {_shown(self.here)} here)"


def versions_here() -> dict[str, str]:
    """Versions of criteria, Python and the packages that a result may depend on."""
    found = {"criteria": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def setting_differences(
    stored: Mapping[str, Any], here: Mapping[str, Any]
) -> tuple[Difference, ...]:
    """Settings that differ, by key.

    A setting that the study's maker did not know yet counts as its default.
    """
    defaults = _defaults()
    keys = sorted({*stored, *here})
    pairs = (
        Difference(key, stored.get(key, defaults.get(key)), here.get(key, defaults.get(key)))
        for key in keys
    )
    return tuple(pair for pair in pairs if pair.stored != pair.here)


def version_differences(
    stored: Mapping[str, str], here: Mapping[str, str]
) -> tuple[Difference, ...]:
    """Packages whose major version differs."""
    return tuple(
        Difference(package, stored[package], here[package])
        for package in MAJOR_MATTERS
        if package in stored
        and package in here
        and stored[package].split(".")[0] != here[package].split(".")[0]
    )


def refuse_difference(stored: sa.Row[Any], here: Identity) -> None:
    """Raise unless this worker would run the stored study.

    Args:
        stored: the study's row of our table `studies`.

    Raises:
        UsageError: naming each key that differs, with both values.
        StoreError: the row is not as this criteria writes it.
    """
    name = here.spec.name
    with trusting(name):
        _refuse_difference(
            name, json.loads(stored.identity), stored.data_sha256, json.loads(stored.versions), here
        )


def _refuse_difference(
    name: str,
    settings: Mapping[str, Any],
    data_sha256: str,
    versions: Mapping[str, str],
    here: Identity,
) -> None:
    differing = setting_differences(settings, here.settings)
    if differing:
        put_back = " ".join(
            f"--set {quote(f'{item.key}={_toml(item.stored)}')}" for item in differing[:3]
        )
        raise UsageError(
            f"study `{name}` was made with other settings: {_listed(differing)}",
            hint=f"join it with `{put_back}`, or start another with `--name`",
            code="study.differs",
        )
    if data_sha256 != here.data_sha256:
        raise UsageError(
            f"the data differ from those of study `{name}` "
            f"(sha256 {data_sha256[:8]}, now {here.data_sha256[:8]})",
            hint="give the data it was made with, or start another study with `--name`",
            code="study.data_differs",
        )
    other = version_differences(versions, here.versions)
    if other:
        raise UsageError(
            f"study `{name}` was made with other versions: {_listed(other)}",
            hint="install those, or start another study with `--name`",
            code="study.versions_differ",
        )


def _listed(differing: Sequence[Difference]) -> str:
    """The first few, and how many more."""
    shown = ", ".join(str(item) for item in differing[:SHOWN])
    more = len(differing) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _defaults() -> dict[str, Any]:
    bare = StudySpec.model_validate({"name": "bare", "data": {"format": "synthetic"}})
    return bare.identity()


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(f"{k} = {_shown(v)}" for k, v in value.items() if v is not None) + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _toml(value: Any) -> str:
    """The value as it stands in a study file."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value) if isinstance(value, bool | str) else _shown(value)
