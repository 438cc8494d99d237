"""Criteria: the definitions that posts are held against. Bundled paraphrases, or a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from criteria_cli.errors import UsageError

BUNDLED = ("dsm5-mdd",)
"""Catalogues that ship with the package."""


@dataclass(frozen=True)
class Criterion:
    """One definition, such as A.4 of the DSM-5's major depressive episode."""

    id: str
    name: str
    """What annotations call it, such as `SLEEP_ISSUES`; without one, the id."""
    text: str
    """The question a post is held against, as the model reads it."""


def load_criteria(reference: str, base: Path) -> tuple[Criterion, ...]:
    """The criteria of a bundled catalogue or of a JSON file, in the catalogue's order.

    Args:
        reference: a name of `BUNDLED`, or the path of a JSON file
            `{"criteria": [{"id": ..., "name": ..., "text": ...}]}`.
        base: the folder that a relative path starts from.

    Raises:
        UsageError: there is no such catalogue, or it is not one.
    """
    if reference in BUNDLED:
        path = Path(__file__).with_name(f"{reference}.json")
    else:
        path = base / Path(reference).expanduser()
        if not path.is_file():
            raise UsageError(
                f"criteria file `{path.name}` does not exist (from `data.criteria`)",
                hint="give a JSON file, or a bundled catalogue: " + ", ".join(BUNDLED),
                code="data.criteria_missing",
            )
    return parse_criteria(_read(path), path.name)


def criterion_index(criteria: Sequence[Criterion]) -> dict[str, int]:
    """Positions in `criteria` by id and by name."""
    index = {criterion.name: position for position, criterion in enumerate(criteria)}
    return index | {criterion.id: position for position, criterion in enumerate(criteria)}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _wrong(path.name, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _wrong(path.name, "is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _wrong(path.name, f"is not JSON: line {error.lineno}, {error.msg.lower()}") from None
    except (ValueError, RecursionError):
        raise _wrong(path.name, "is not JSON that can be read") from None


def parse_criteria(value: Any, file: str) -> tuple[Criterion, ...]:
    """The criteria of a JSON value as `load_criteria` reads it from `file`.

    Raises:
        UsageError: it is no list of criteria.
    """
    listed = value.get("criteria") if isinstance(value, Mapping) else None
    if not isinstance(listed, list) or not listed:
        raise UsageError(
            f"`{file}` has no list `criteria`",
            hint='{"criteria": [{"id": "A.1", "name": "DEPRESSED_MOOD", "text": "..."}]}',
            code="data.criteria",
        )
    criteria = tuple(_criterion(item, file, number) for number, item in enumerate(listed, 1))
    owners: dict[str, int] = {}
    for number, criterion in enumerate(criteria, 1):
        for word in {criterion.id, criterion.name}:
            if word in owners:
                raise _wrong(file, f"calls criteria {owners[word]} and {number} both `{word}`")
            owners[word] = number
    return criteria


def _criterion(item: Any, file: str, number: int) -> Criterion:
    if not isinstance(item, Mapping):
        raise _wrong(file, f"has a criterion {number} that is not an object")
    unknown = sorted(set(item) - {"id", "name", "text"})
    if unknown:
        raise _wrong(file, f"has an unknown key `{unknown[0]}` in criterion {number}")
    fields = {}
    for key in ("id", "name", "text"):
        text = item.get(key, item.get("id") if key == "name" else None)
        if not isinstance(text, str) or not text.strip():
            raise UsageError(
                f"`{file}`: criterion {number} has no {key}", code="data.criteria_empty"
            )
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            raise _wrong(file, f"has half a character in the {key} of criterion {number}")
        fields[key] = text.strip()
    return Criterion(**fields)


def _wrong(file: str, what: str) -> UsageError:
    return UsageError(f"`{file}` {what}", code="data.criteria")
