"""What is wrong with a setting, in a person's words.

Turns pydantic's findings into one sentence that names the key, what was found and what was
expected, and finds the name that a misspelt one was meant to be.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from criteria_cli.study.spec import Parameter, StudySpec

_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dict_type": "a table",
    "tuple_type": "a list",
}


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `name` was probably meant to be, or None.

    Looks at the whole name, at the part behind the last dot, and at initials (`lr` for
    `learning_rate`).
    """
    known = list(dict.fromkeys(candidates))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if close:
        return close[0]
    parts = {" ".join(sorted(item.split("_"))): item for item in known}
    close = difflib.get_close_matches(" ".join(sorted(name.split("_"))), list(parts), n=1)
    if close and "_" in name:
        return parts[close[0]]
    word = name.rpartition(".")[2].lower()
    tails = {candidate.rpartition(".")[2]: candidate for candidate in reversed(known)}
    if word in tails:
        return tails[word]
    for tail, candidate in tails.items():
        if len(word) > 1 and word == "".join(part[0] for part in tail.split("_") if part):
            return candidate
    close = difflib.get_close_matches(word, list(tails), n=1, cutoff=0.75)
    return tails[close[0]] if close else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """The end of an error's sentence: ``, did you mean `x`?`` or nothing."""
    match = nearest(name, candidates)
    return f", did you mean `{match}`?" if match else ""


def choice_of(values: Sequence[object]) -> str:
    """`a`, `b` or `c`."""
    quoted = [f"`{value}`" for value in values]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def known_keys(model: type[BaseModel] = StudySpec, prefix: str = "") -> list[str]:
    """Every setting of a definition by dotted key, searched parameters left out."""
    keys: list[str] = []
    for name, info in model.model_fields.items():
        key = f"{prefix}{info.alias or name}"
        section = section_of(info)
        if section is not None:
            keys.extend(known_keys(section, f"{key}."))
        elif key != "search":
            keys.append(key)
    return keys


def section_of(info: FieldInfo) -> type[BaseModel] | None:
    """The section a field holds, if it holds one."""
    parts = typing.get_args(info.annotation) or (info.annotation,)
    for part in parts:
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def field_of(key: str) -> FieldInfo | None:
    """The field behind a dotted key of a definition."""
    model: type[BaseModel] = StudySpec
    *sections, last = key.split(".")
    for name in sections:
        info = model.model_fields.get(name)
        section = section_of(info) if info is not None else None
        if section is None:
            return None
        model = section
    return model.model_fields.get(last)


def kind_of(info: FieldInfo) -> str:
    """What a field takes, in words: `a whole number or \\`auto\\``."""
    words: list[str] = []
    for part in _alternatives(info.annotation):
        if typing.get_origin(part) is Literal:
            words.append(choice_of(typing.get_args(part)))
        elif part is bool:
            words.append("true or false")
        elif part is int:
            words.append("a whole number")
        elif part is float:
            words.append("a number")
        elif part is str:
            words.append("text")
    return " or ".join(dict.fromkeys(words)) or "a table"


def _alternatives(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [item for part in typing.get_args(annotation) for item in _alternatives(part)]
    return [] if annotation is type(None) else [annotation]


def explain(error: ValidationError, prefix: str = "") -> tuple[str, str]:
    """The key that is wrong and the rest of the sentence.

    The first finding is told; a union's findings about one key count as one.
    """
    findings = error.errors(include_url=False, include_context=True)
    first = min(findings, key=lambda found: found["type"] != "extra_forbidden")
    key = prefix + _key(first)
    alternatives = [found for found in findings if prefix + _key(found) == key]
    if len(alternatives) > 1:
        return key, _one_of_several(key, alternatives)
    return key, _sentence(key, first)


def _key(found: ErrorDetails) -> str:
    """The dotted key of a finding, without pydantic's names for the branches of a union."""
    parts = [str(part) for part in found["loc"]]
    if parts[:1] == ["search"] and len(parts) > 1:
        field = [part for part in parts[2:3] if part in Parameter.model_fields]
        if found["type"] == "extra_forbidden":
            field = parts[2:3]
        return ".".join(["search", parts[1], *field])
    kept: list[str] = []
    model: type[BaseModel] | None = StudySpec
    for part in parts:
        if model is None:
            break
        kept.append(part)
        names = {info.alias or name: info for name, info in model.model_fields.items()}
        model = section_of(names[part]) if part in names else None
    return ".".join(kept)


def _one_of_several(key: str, findings: Sequence[ErrorDetails]) -> str:
    bounds = [found for found in findings if _bound(found) is not None]
    if bounds:
        return _sentence(key, bounds[0])
    info = field_of(key)
    kind = kind_of(info) if info is not None else "a number"
    return f"must be {kind}, not {shown(findings[0]['input'])}"


def _bound(found: ErrorDetails) -> str | None:
    context = found.get("ctx", {})
    words = {
        "ge": "at least",
        "gt": "above",
        "le": "at most",
        "lt": "below",
        "min_length": "at least",
        "max_length": "at most",
    }
    for name, word in words.items():
        if name in context:
            unit = " character long" if name.endswith("length") else ""
            return f"{word} {context[name]:g}{unit}"
    return None


def _sentence(key: str, found: ErrorDetails) -> str:
    kind, value = found["type"], found["input"]
    bound = _bound(found)
    if bound is not None:
        return f"must be {bound}, not {shown(value)}"
    if kind == "value_error":
        return str(found["ctx"]["error"])
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        info = field_of(key)
        choices = _literals(info) if info is not None else []
        return f"must be {choice_of(choices)}, not {shown(value)}" + (
            did_you_mean(value, choices) if isinstance(value, str) else ""
        )
    info = field_of(key)
    expected = _KINDS.get(kind) or (kind_of(info) if info is not None else "something else")
    text = "the text " if isinstance(value, str) and len(value) <= 40 else ""
    return f"must be {expected}, not {text}{shown(value)}"


def _literals(info: FieldInfo) -> list[str]:
    return [
        str(value)
        for part in _alternatives(info.annotation)
        if typing.get_origin(part) is Literal
        for value in typing.get_args(part)
    ]


def shown(value: object) -> str:
    """A setting's value as an error shows it: short, and saying when it is text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, str):
        return f"`{value}`" if len(value) <= 40 and value.isprintable() else "a long text"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    return f"`{value}`"


def shown_path(path: Path | str) -> str:
    """A path as messages name it: relative to here, else to home as `~`, else as it is."""
    given = Path(path)
    if not given.is_absolute():
        return str(given)
    for root, prefix in ((Path.cwd(), ""), (Path.home(), "~/")):
        try:
            return f"{prefix}{given.relative_to(root)}"
        except ValueError:
            continue
    return str(given)
