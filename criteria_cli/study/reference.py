"""The reference of the study file, made from the code: `python -m criteria_cli.study.reference`."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from criteria_cli.study.checks import ACTS_ONLY_WITH
from criteria_cli.study.explain import choice_of, section_of
from criteria_cli.study.spec import LOCAL_KEYS, SEARCHABLE, Parameter, StudySpec

INTRODUCTION = """# The study file

Made from the code by `python -m criteria_cli.study.reference`; a test compares the two.

A study file is TOML. It is complete: nothing is inherited, and a key that no code reads is an error
that names the nearest one. `criteria init my.toml --like pc_ce` writes one to start from, and
`criteria hpo my.toml --dry-run` shows every setting with where it came from. A value is taken from
a flag, else the environment, else the file, else the default below.

Settings marked *local* may differ between the workers of a study and may change while it runs. All
others are frozen by the first worker; one that would run another study is refused with the
difference.
"""

SEARCH = """## `[search]`

What a trial samples instead of the value above: any setting of `[training]` (by its own name),
`[model]` or `[augmentation]` (as `"model.hidden_dropout"`).

```toml
[search]
learning_rate = { low = 1e-6, high = 5e-5, log = true }
batch_size = { choices = [16, 32, 64, 128] }
loss = { choices = ["cross_entropy", "focal"] }
focal_gamma = { low = 0.5, high = 4.0, when = { loss = "focal" } }
```

"""


def reference() -> str:
    """The whole page, in Markdown."""
    parts = [INTRODUCTION, "## At the top\n", _table(StudySpec, "", top=True)]
    for name, info in StudySpec.model_fields.items():
        section = section_of(info)
        if name != "search" and section is not None:
            parts += _section(name, section)
    parts += [SEARCH + _table(Parameter, ""), _idle(), _words(Parameter)]
    return "\n".join(part for part in parts if part).rstrip() + "\n"


def _section(name: str, section: type[BaseModel]) -> list[str]:
    parts = [f"## `[{name}]`\n", f"{inspect.getdoc(section)}\n", _table(section, name)]
    for key, info in section.model_fields.items():
        inner = section_of(info)
        if inner is not None:
            parts += [f"### `{name}.{key}`\n", f"{inspect.getdoc(inner)}\n"]
            parts.append(_table(inner, f"{name}.{key}"))
    return parts


def _words(section: type[BaseModel]) -> str:
    return "" if section is Parameter else f"{inspect.getdoc(section)}\n"


def _table(section: type[BaseModel], prefix: str, *, top: bool = False) -> str:
    rows = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for name, info in section.model_fields.items():
        if section_of(info) is not None and (top or prefix):
            continue
        key = info.alias or name
        full = f"{prefix}.{key}" if prefix else key
        meaning = " ".join((info.description or "").split())
        if full in LOCAL_KEYS:
            meaning = f"{meaning} *Local.*".strip()
        rows.append(f"| `{key}` | {_takes(info)} | {_default(info)} | {_escaped(meaning)} |")
    return "\n".join(rows) + "\n"


def _takes(info: FieldInfo) -> str:
    words = _kinds(info.annotation, info.metadata)
    return _escaped(", or ".join(dict.fromkeys(words)))


def _kinds(annotation: Any, metadata: typing.Iterable[Any] = ()) -> list[str]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        inner, *more = typing.get_args(annotation)
        found = [item for extra in more for item in _constraints(extra)]
        return _kinds(inner, [*found, *metadata])
    if origin in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        return [word for part in parts for word in _kinds(part)]
    if origin is Literal:
        return [choice_of(typing.get_args(annotation))]
    if origin is tuple:
        return ["a list"]
    if origin is dict:
        return ["a table"]
    names = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    bounds = [word for item in metadata for word in [_bound(item)] if word]
    word = names.get(annotation, "a table")
    return [f"{word} {' and '.join(bounds)}".strip()]


def _constraints(extra: Any) -> list[Any]:
    return list(extra.metadata) if isinstance(extra, FieldInfo) else [extra]


def _bound(item: Any) -> str:
    match item:
        case Ge():
            return f"from {item.ge:g}"
        case Gt():
            return f"above {item.gt:g}"
        case Le():
            return f"to {item.le:g}"
        case Lt():
            return f"below {item.lt:g}"
        case MinLen() | MaxLen():
            return ""
    return ""


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{value!r}`"


def _idle() -> str:
    rows = [
        f"| `{key.removeprefix('training.')}` | `{needed}` is `{str(value).lower()}` |"
        for key, (needed, value) in ACTS_ONLY_WITH.items()
        if key.partition(".")[0] in SEARCHABLE
    ]
    head = (
        "Some settings act only with another. A definition that samples one where it cannot act is "
        "refused:\n\n| searched | acts only where |\n|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
