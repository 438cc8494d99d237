"""The flags that several commands share, and how their values are read.

Parsers answer in our words: `--trials` must be at least 1, not 0.
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

from criteria_cli.failpoints import TESTING

_DEVICE = re.compile(r"(auto|cpu|cuda(:\d{1,4})?)\Z")


def whole_number(least: int) -> Callable[[str], int]:
    """A parser of whole numbers."""

    def parse(text: str) -> int:
        if isinstance(text, int):
            return text
        try:
            value = int(text)
        except ValueError:
            raise typer.BadParameter(f"must be a whole number, not `{text}`") from None
        if value < least:
            raise typer.BadParameter(f"must be at least {least}, not {value}")
        return value

    return parse


def hours(text: str) -> float:
    """A parser of a positive number of hours."""
    try:
        value = float(text)
    except ValueError:
        raise typer.BadParameter(f"must be a number of hours, not `{text}`") from None
    if not math.isfinite(value) or value <= 0:
        raise typer.BadParameter(f"must be above 0, not {value:g}")
    return value


def number_or_auto(least: int) -> Callable[[str], int | str]:
    """A parser of a whole number or the word `auto`."""

    def parse(text: str) -> int | str:
        if text == "auto" or isinstance(text, int):
            return text
        try:
            value = int(text)
        except ValueError:
            raise typer.BadParameter(f"must be a whole number or `auto`, not `{text}`") from None
        if value < least:
            raise typer.BadParameter(f"must be at least {least} or `auto`, not {value}")
        return value

    return parse


def device(text: str) -> str:
    """A parser of `auto`, `cpu` or `cuda:N`; `cuda` is the first one."""
    simulated = TESTING and text.startswith("simulated:")
    if not simulated and not _DEVICE.match(text):
        raise typer.BadParameter(f"must be `auto`, `cpu` or `cuda:N`, not `{text}`")
    return "cuda:0" if text == "cuda" else text


def seconds(text: str) -> float:
    """A parser of the pause of `--watch`."""
    try:
        value = float(text)
    except ValueError:
        raise typer.BadParameter(f"must be a number of seconds, not `{text}`") from None
    if not 1 <= value <= 86400:
        raise typer.BadParameter(f"must be at least 1 second, not {value:g}")
    return value


def _complete_study(incomplete: str) -> list[str]:
    from criteria_cli.cli.completion import studies

    return studies(incomplete)


def _complete_name(incomplete: str) -> list[str]:
    from criteria_cli.cli.completion import names

    return names(incomplete)


def _complete_setting(incomplete: str) -> list[str]:
    from criteria_cli.cli.completion import settings

    return settings(incomplete)


Study = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        show_default=False,
        help="The study file, or the name of a bundled definition; see `criteria init --help`.",
        autocompletion=_complete_study,
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        show_default=False,
        help="The store: sqlite:///FILE or postgresql://USER@HOST/DATABASE, without a password. "
        "Default: CRITERIA_STORAGE, else sqlite:///criteria.db",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        show_default=False,
        help="The study's name; default: the definition's.",
        autocompletion=_complete_name,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="PATH",
        show_default=False,
        help="The data, instead of `data.path`. Default: CRITERIA_DATA",
    ),
]
DeviceName = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cuda:N|cpu",
        parser=device,
        help="`auto` takes a device that no other worker of this machine holds.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        show_default=False,
        help="One setting in TOML syntax, such as training.epochs=5; repeatable.",
        autocompletion=_complete_setting,
    ),
]
Headroom = Annotated[
    str | None,
    typer.Option(
        "--headroom",
        metavar="10%|2GiB",
        show_default=False,
        help="What stays free on the card: `training.vram_headroom`.",
    ),
]
Json = Annotated[bool, typer.Option("--json", show_default=False, help="Print one JSON document.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        show_default=False,
        help="Check everything, print each setting with where it came from, write nothing.",
    ),
]
Out = Annotated[
    str | None,
    typer.Option("--out", metavar="PATH", show_default=False, help="Where the result goes."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", show_default=False, help="Replace a result that is there.")
]


def flags(**given: tuple[str, str, Any]) -> dict[str, tuple[str, Any]]:
    """The settings that flags name, those that were given: key to (flag, value)."""
    return {key: (flag, value) for flag, key, value in given.values() if value is not None}


Debug = Annotated[
    bool, typer.Option("--debug", show_default=False, help="Show where an error happened.")
]


def with_debug(function: Callable[..., int]) -> Callable[..., int]:
    """The command with `--debug` among its flags; `main` reads that one for itself."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function, include_extras=True)

    def command(**values: Any) -> int:
        values.pop("debug")
        return function(**values)

    debug = inspect.Parameter(
        "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug
    )
    given = [
        parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in signature.parameters.values()
    ]
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*given, debug], return_annotation=int
    )
    command.__annotations__ = {**hints, "debug": Debug}
    command.__doc__ = function.__doc__
    return command
