"""What went wrong, on standard error: one line, perhaps a hint, and the exit code.

No traceback without `--debug`, and that one without locals or the text of foreign exceptions,
which may quote the data.
"""

from __future__ import annotations

import errno
import json
import re
import sys
import traceback
from collections.abc import Iterable

import typer

from criteria_cli.cli.words import cleaned
from criteria_cli.errors import (
    CriteriaError,
    MachineError,
    Saved,
    StoreError,
    UsageError,
    WorkError,
)
from criteria_cli.study.frames import bare_traceback, shown_module, without_password

EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "the work ran and failed",
    2: "wrong use: nothing was started",
    3: "this machine cannot do it: it lacks a device, memory, disk or a package",
    4: "the store: unreachable, refused, damaged or of another schema",
    5: "`status --check` found trouble",
    70: "a bug in criteria",
    75: "stopped with everything saved: run the same command again",
    130: "stopped at once by a second Ctrl-C",
}

_CODES: tuple[tuple[type[CriteriaError], int], ...] = (
    (UsageError, 2),
    (MachineError, 3),
    (StoreError, 4),
    (Saved, 75),
    (WorkError, 1),
    (CriteriaError, 1),
)


_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)

ERROR = "error: "
"""How a line begins that says what is wrong; one that says that work was stopped has no head."""


def exit_code(error: CriteriaError) -> int:
    """The exit code of one of our errors."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def warn(message: str) -> None:
    """A warning on standard error."""
    sys.stderr.write(f"warning: {message}\n")


def report(error: BaseException, *, arguments: list[str], debug: bool) -> int:
    """Say what went wrong and return the exit code."""
    if debug:
        sys.stderr.write(bare_traceback(error))
    if isinstance(error, CriteriaError):
        head = "" if isinstance(error, Saved) else ERROR
        _say(error.message, error.hint, error.code, arguments, head=head)
        return exit_code(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{error}\n")
        return 2
    if isinstance(error, typer.TyperException):
        message, hint = usage_message(error)
        _say(message, hint, "usage", arguments)
        return 2
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        message = "stopped at once, what was saved before stays"
        _say(message, "run the same command again to go on", "interrupted", arguments, head="")
        return 130
    if isinstance(error, OSError) and error.errno in _MACHINE:
        named = shown_path(error.filename) if isinstance(error.filename, str) else "a file"
        reason = (error.strerror or "failed").lower()
        _say(f"cannot write to `{named}`: {reason}", "", "machine.disk", arguments)
        return 3
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        _say("a file name is too long", "", "usage.name_too_long", arguments)
        return 2
    if isinstance(error, MemoryError):
        _say("this machine has too little memory", "", "machine.memory", arguments)
        return 3
    place = _place(error)
    _say(
        f"a bug in criteria: {type(error).__name__} at {place}",
        "please report it with the output of `criteria doctor`; --debug shows where it was",
        "bug",
        arguments,
    )
    return 70


def _say(message: str, hint: str, code: str, arguments: list[str], *, head: str = ERROR) -> None:
    message, hint = without_password(message), without_password(hint)
    sys.stderr.write(f"{head}{cleaned(message)}\n")  # it may name what stands in a shared store
    for line in hint.splitlines():
        sys.stderr.write(f"  hint: {cleaned(line)}\n")
    if "--json" in arguments:
        document = {
            "schema": "criteria.error/1",
            "code": code,
            "message": message,
            "hint": hint or None,
        }
        sys.stderr.write(json.dumps(document, allow_nan=False) + "\n")
    sys.stderr.flush()


def shown_path(path: str) -> str:
    """A path as messages name it, see `criteria_cli.study.explain.shown_path`."""
    from criteria_cli.study import explain

    return explain.shown_path(path)


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "criteria_cli" in frame.filename] or list(frames)
    if not ours:
        return "an unknown place"
    return f"{shown_module(ours[-1].filename)}:{ours[-1].lineno}"


def usage_message(error: typer.TyperException) -> tuple[str, str]:
    """What Typer found wrong with the command line, in our words, and a hint."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "criteria"
    hint = f"{path} --help"
    option = getattr(error, "option_name", None)
    if hasattr(error, "possibilities") and option is not None:
        known = _options(context)
        return f"no such option `{option}`{_meant(option, known)}", hint
    if option is not None and "requires an argument" in error.message:
        return f"`{option}` needs a value", hint
    if option is not None:
        return f"`{option}`: {_plain(error.message)}", hint
    extra = re.match(r"Got unexpected extra arguments? ?(?:\(s\) )?\((.*)\)", error.message)
    if extra is not None:
        return f"unexpected argument `{extra[1].split()[0]}`", hint
    command = re.match(r"No such command '([^']*)'", error.message)
    if command is not None and context is not None:
        names = getattr(context.command, "commands", {})
        return f"no such command `{command[1]}`{_meant(command[1], names)}", hint
    parameter = getattr(error, "param", None)
    if parameter is not None and type(error).__name__ == "MissingParameter":
        help_text = (getattr(parameter, "help", "") or "").partition(";")[0].partition(".")[0]
        name = parameter.metavar or parameter.name.upper()
        return f"missing {name}{', ' + _plain(help_text) if help_text else ''}", hint
    if parameter is not None:
        name = _typed(parameter)
        joint = "" if error.message.startswith("must") else ":"
        return f"`{name}`{joint} {_plain(error.message)}", hint
    return _plain(error.message), hint


def _typed(parameter: object) -> str:
    """A parameter as it is typed: its long option, or an argument's name."""
    options: list[str] = getattr(parameter, "opts", [])
    long = [option for option in options if option.startswith("--")]
    return (long or [str(getattr(parameter, "metavar", "") or "argument")])[0]


def _options(context: object) -> list[str]:
    command = getattr(context, "command", None)
    return [
        option
        for parameter in getattr(command, "params", [])
        for option in (*parameter.opts, *parameter.secondary_opts)
    ]


def _meant(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1)
    return f", did you mean `{close[0]}`?" if close else ""


def _plain(message: str) -> str:
    """A foreign sentence in our form: lower case, no full stop, backticks."""
    text = message.strip().rstrip(".").removeprefix("Value error, ")
    text = re.sub(r"'([^']*)'", r"`\1`", text)
    return " ".join(f"{text[:1].lower()}{text[1:]}".split())
