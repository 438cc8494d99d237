"""Finds a study definition, reads it, lays the overrides over it and says where each value is from.

A definition is a TOML file or the name of a bundled one. Precedence: flag, environment, file,
default.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from criteria_cli import __version__
from criteria_cli.bundled import bundled, bundled_names
from criteria_cli.errors import UsageError
from criteria_cli.study.checks import check_search
from criteria_cli.study.explain import did_you_mean, explain, known_keys, shown_path
from criteria_cli.study.spec import SCHEMA, SEARCHABLE, Parameter, StudySpec, flatten, setting_key

ENVIRONMENT = {"CRITERIA_DATA": "data.path"}
"""Environment variables that stand for a setting."""

_PLACE = re.compile(r"\(at line (\d+), column (\d+)\)|\(at end of document\)")


@dataclass(frozen=True)
class Definition:
    """A study definition, resolved."""

    spec: StudySpec
    sources: Mapping[str, str]
    """Where each setting came from, by dotted key: a flag, a variable, a file or `default`."""
    path: Path | None
    """The file; None for a bundled definition."""
    base: Path
    """The folder that relative data paths start from: the file's, or for a bundled one this one."""

    @property
    def file(self) -> str:
        """The file as messages name it."""
        return shown_path(self.path) if self.path is not None else f"{self.spec.name}.toml"

    def settings(self) -> Iterator[tuple[str, Any, str]]:
        """Each resolved setting: dotted key, value, source."""
        for key, value in flatten(self.spec.to_json()):
            yield key, value, self.sources.get(key, "default")


@dataclass(frozen=True)
class _Override:
    key: str
    parts: tuple[str, ...]
    value: Any
    source: str


def load_definition(
    reference: str,
    *,
    settings: Sequence[str] = (),
    flags: Mapping[str, tuple[str, Any]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Definition:
    """Read a definition and lay `settings` and `flags` over it.

    Args:
        reference: a path to a TOML file, or the name of a bundled definition.
        settings: `key.path=value` strings in TOML syntax, as `--set` takes them.
        flags: values of other flags by dotted key, each with the flag's name.
        environ: the environment; the process's own by default.

    Raises:
        UsageError: naming file, key, what was found and what was expected.
    """
    path, own = find(reference)
    file = shown_path(path) if own else path.name
    base = path.parent if own else Path.cwd()
    values = _normalised(read(path, file))
    _check_schema(values, file)
    if not own and values.get("name") != path.stem:
        raise UsageError(f"`{file}` is named `{values.get('name')}`", code="study.name")
    try:
        sources = {key: file for key, _ in flatten(values)}
    except RecursionError as error:
        raise UsageError(f"`{file}` {_too_much(error)}", code="study.toml") from None
    for override in _overrides(settings, flags or {}, environ or os.environ, base):
        _apply(values, override)
        for key in [key for key in sources if key.startswith(f"{override.key}.")]:
            del sources[key]
        for key, _ in flatten(_nested(override)):
            sources[key] = override.source
    spec = _validated(values, sources, file)
    definition = Definition(spec, sources, path if own else None, base)
    check_search(spec, lambda key: _where(key, sources, file))
    return definition


def find(reference: str) -> tuple[Path, bool]:
    """The file behind a reference, and whether it is the user's own."""
    path = Path(reference)
    if path.suffix != ".toml" and os.sep not in reference:
        shipped = bundled("studies") / f"{reference}.toml"
        if shipped.is_file():
            return shipped, False
        if not path.exists():
            names = bundled_names()
            raise UsageError(
                f"no study file and no bundled definition `{reference}`"
                + did_you_mean(reference, names),
                hint=f"bundled: {', '.join(names)}",
                code="study.unknown",
            )
    if path.is_dir():
        raise UsageError(
            f"`{shown_path(path)}` is a directory, not a study file", code="study.directory"
        )
    if not path.exists():
        raise UsageError(
            f"study file `{shown_path(path)}` does not exist",
            hint=f"criteria init {shown_path(path)}",
            code="study.missing",
        )
    return path, True


def reference_of(name: str) -> str:
    """What to type for a stored study, as far as its name tells: `demo`, `my.toml`, or with both
    parts open `STUDY --name my`.
    """
    if name in bundled_names():
        return name
    return f"{name}.toml" if Path(f"{name}.toml").is_file() else f"STUDY --name {name}"


def read(path: Path, file: str) -> dict[str, Any]:
    """The tables of a TOML file."""
    try:
        content = path.read_bytes()
    except PermissionError:
        raise UsageError(
            f"cannot read study file `{file}`: permission denied", code="study.permission"
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot read study file `{file}`: {(error.strerror or 'error').lower()}",
            code="study.unreadable",
        ) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"`{file}` is not UTF-8 text (byte {error.start})", code="study.encoding"
        ) from None
    if not text.strip():
        raise UsageError(
            f"`{file}` is empty",
            hint="criteria init writes one to start from",
            code="study.empty",
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(_toml_message(str(error), file), code="study.toml") from None
    except (RecursionError, ValueError) as error:
        raise UsageError(f"`{file}` {_too_much(error)}", code="study.toml") from None


def _too_much(error: Exception) -> str:
    """What Python's reader of TOML, or our own, gave up at; the file may still be TOML."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    return "holds a number that is too long"  # ValueError, where Python bounds its digits


def _toml_message(message: str, file: str) -> str:
    place = _PLACE.search(message)
    what = _PLACE.sub("", message).strip().rstrip(".")
    what = what[:1].lower() + what[1:]
    if place is None or place.group(1) is None:
        return f"`{file}`: not TOML: {what}"
    return f"`{file}` line {place.group(1)}, column {place.group(2)}: not TOML: {what}"


def _check_schema(values: Mapping[str, Any], file: str) -> None:
    schema = values.get("schema")
    if schema is None:
        raise UsageError(
            f"`{file}` does not say its schema", hint=f"schema = {SCHEMA}", code="study.schema"
        )
    if schema != SCHEMA:
        raise UsageError(
            f"`{file}` has schema {schema}, this criteria ({__version__}) reads up to {SCHEMA}",
            code="study.schema",
        )


def _normalised(values: dict[str, Any]) -> dict[str, Any]:
    """The same tables, `search.augmentation.method` read as `search."augmentation.method"`."""
    search = values.get("search")
    if not isinstance(search, Mapping):
        return values
    flat: dict[str, Any] = {}
    for name, value in search.items():
        if name in SEARCHABLE and isinstance(value, Mapping):
            flat.update({f"{name}.{key}": item for key, item in value.items()})
        else:
            flat[name] = value
    return {**values, "search": flat}


def _overrides(
    settings: Sequence[str],
    flags: Mapping[str, tuple[str, Any]],
    environ: Mapping[str, str],
    base: Path,
) -> Iterator[_Override]:
    """What lies over the file, the weakest first."""
    known = known_keys()
    for variable, key in ENVIRONMENT.items():
        if environ.get(variable) and key not in flags:
            value = _from_here(key, environ[variable], base)
            yield _Override(key, tuple(key.split(".")), value, variable)
    keys: set[str] = set()
    for setting in settings:
        override = _parse_setting(setting, known)
        keys.add(override.key)
        yield override
    for key, (source, value) in flags.items():
        if key in keys:
            raise UsageError(f"`{source}` and `--set {key}` exclude each other", code="usage.twice")
        yield _Override(key, tuple(key.split(".")), _from_here(key, value, base), source)


def _from_here(key: str, value: Any, base: Path) -> Any:
    """A path given on the command line starts from the working directory, not from the file."""
    if key != "data.path" or not isinstance(value, str | Path):
        return value
    path = Path(value).expanduser()
    if path.is_absolute() or base.resolve() == Path.cwd():
        return str(path)
    return os.path.relpath(path, base)


def _parse_setting(setting: str, known: Sequence[str]) -> _Override:
    name, equals, text = setting.partition("=")
    name = name.strip()
    if not equals or not name:
        raise UsageError(f"`--set {setting}` needs the form KEY=VALUE", code="usage.set")
    parts = _parts(name)
    key = ".".join(parts)
    sections = {item.rpartition(".")[0] for item in known} | {"search"}
    if parts[0] == "search":
        if len(parts) > 1:
            _check_parameter(parts)
    elif key not in known and key not in sections - {""}:
        full = [*known, *(f"search.{item}" for item in known if item.startswith("training."))]
        raise UsageError(
            f"`--set`: unknown setting `{name}`{did_you_mean(name, full)}", code="study.unknown_key"
        )
    return _Override(key, parts, _value(text.strip(), setting, key), "--set")


def _check_parameter(parts: tuple[str, ...]) -> None:
    if len(parts) > 2 and parts[2] not in Parameter.model_fields:
        raise UsageError(
            f"`--set`: unknown setting `{'.'.join(parts)}`"
            + did_you_mean(parts[2], Parameter.model_fields),
            code="study.unknown_key",
        )


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a dotted key; a searched name in a section counts as one part."""
    try:
        nested: Any = tomllib.loads(f"{name} = 0")
    except tomllib.TOMLDecodeError:
        raise UsageError(f"`--set`: `{name}` is not a setting's name", code="usage.set") from None
    parts: list[str] = []
    while isinstance(nested, dict):
        ((part, nested),) = nested.items()
        parts.append(part)
    if parts[0] == "search" and len(parts) > 2 and parts[1] in SEARCHABLE:
        parts[1:3] = [f"{parts[1]}.{parts[2]}"]
    return tuple(parts)


def _value(text: str, setting: str, key: str) -> Any:
    """A TOML value; a bare word is text, since shells eat quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        if text[:1] in {"", "[", "{", '"', "'"} or "\n" in text:
            raise UsageError(
                f"`--set {setting}`: the value is not TOML",
                hint="text in quotes, lists as [1, 2], tables as {low = 1, high = 2}",
                code="usage.set",
            ) from None
        return text
    except (RecursionError, ValueError) as error:
        raise UsageError(f"`--set {key}`: the value {_too_much(error)}", code="usage.set") from None


def _nested(override: _Override) -> dict[str, Any]:
    value = override.value
    for part in reversed(override.parts):
        value = {part: value}
    return dict(value)


def _apply(values: dict[str, Any], override: _Override) -> None:
    *sections, last = override.parts
    table = values
    for name in sections:
        inner = table.get(name)
        table[name] = dict(inner) if isinstance(inner, Mapping) else {}
        table = table[name]
    table[last] = override.value


def _where(key: str, sources: Mapping[str, str], file: str) -> str:
    """The start of a sentence about a key: the file, or the flag that set it."""
    source = sources.get(key)
    if source is None or source == file:
        return f"`{file}`"
    return f"`{source}`"


def _validated(values: Mapping[str, Any], sources: Mapping[str, str], file: str) -> StudySpec:
    try:
        spec = StudySpec.model_validate(dict(values))
    except ValidationError as error:
        key, sentence = explain(error)
        where = _where(key, sources, file)
        found = error.errors(include_url=False)
        if any(item["type"] == "extra_forbidden" for item in found):
            raise _unknown_key(key, where) from None
        if key == "name" and sentence.startswith("may use"):
            raise UsageError(f"{where}: study name {sentence}", code="study.name") from None
        if not key:
            raise UsageError(f"{where}: {sentence}", code="study.value") from None
        joint = "" if sentence.startswith(("must", "is missing")) else ":"
        raise UsageError(f"{where}: `{key}`{joint} {sentence}", code="study.value") from None
    except RecursionError as error:
        raise UsageError(f"`{file}` {_too_much(error)}", code="study.toml") from None
    return _with_numbers(spec)


def _unknown_key(key: str, where: str) -> UsageError:
    if key.startswith("search."):
        candidates: list[str] = [
            f"{key.rpartition('.')[0]}.{name}" for name in Parameter.model_fields
        ]
    else:
        sections = {item.partition(".")[0] for item in known_keys()}
        candidates = [*known_keys(), *sorted(sections | {"search"})]
    return UsageError(
        f"{where}: unknown key `{key}`{did_you_mean(key, candidates)}", code="study.unknown_key"
    )


def _with_numbers(spec: StudySpec) -> StudySpec:
    """Bounds of a setting that takes fractions as fractions: `low = 0` is 0.0 there."""
    search: dict[str, Parameter] = {}
    for name, parameter in spec.search.items():
        section, _, key = setting_key(name).partition(".")
        info = SEARCHABLE[section].model_fields.get(key) if section in SEARCHABLE else None
        whole = info is None or info.annotation is int or parameter.choices is not None
        search[name] = (
            parameter
            if whole
            else parameter.model_copy(
                update={
                    bound: float(value)
                    for bound in ("low", "high", "step")
                    if (value := getattr(parameter, bound)) is not None
                }
            )
        )
    return spec.model_copy(update={"search": search})
