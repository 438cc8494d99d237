"""A definition for training one configuration, not a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from criteria_cli.errors import UsageError
from criteria_cli.study.files import Definition, load_definition
from criteria_cli.study.spec import setting_key

_DETECT = "training.auto_detect_batch_size"
_EVALUATION = "training.eval_batch_size"


def single_definition(
    reference: str, *, settings: Sequence[str] = (), flags: Mapping[str, tuple[str, Any]]
) -> Definition:
    """The definition with what a single training does otherwise: nothing is measured unless asked
    for, and one batch size then serves training and evaluation.

    Raises:
        UsageError: as `load_definition`.
    """
    given = dict(flags)
    definition = load_definition(reference, settings=settings, flags=given)
    if _DETECT not in definition.sources:
        given[_DETECT] = ("train", False)
        definition = load_definition(reference, settings=settings, flags=given)
    training = definition.spec.training
    if not training.auto_detect_batch_size and training.eval_batch_size == "auto":
        given[_EVALUATION] = ("train", training.batch_size)
        settings = [item for item in settings if not item.startswith(_EVALUATION)]
        definition = load_definition(reference, settings=settings, flags=given)
    return definition


def refuse_searched(definition: Definition) -> None:
    """A setting given on the command line that every trial samples anew would do nothing.

    Raises:
        UsageError: naming it, and how to fix it to one value.
    """
    for name in definition.spec.search:
        source = definition.sources.get(setting_key(name), "")
        if source.startswith("--"):
            raise UsageError(
                f"`{source}` sets `{setting_key(name)}`, but every trial samples it",
                hint=f"--set 'search.{name}={{choices=[VALUE]}}' fixes it",
                code="usage.searched",
            )
