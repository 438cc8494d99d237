"""The command line: which commands there are, and what happens around each of them."""

from __future__ import annotations

import errno
import os
import re
import resource
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from criteria_cli import __version__
from criteria_cli.cli import (
    doctor,
    failures,
    hpo,
    init,
    predict,
    probe_vram,
    report,
    status,
    storage,
    train,
)
from criteria_cli.cli.arguments import with_debug
from criteria_cli.cli.courtesy import polite_stderr
from criteria_cli.cli.environment import VARIABLES, unknown_variables
from criteria_cli.cli.signals import answer_before_work
from criteria_cli.errors import UsageError

EPILOG = "\n\n".join(
    (
        "\b\nExit codes:\n"
        + "\n".join(f"  {code:>3}  {text}" for code, text in failures.EXIT_CODES.items()),
        "\b\nEnvironment:\n"
        + "\n".join(f"  {name:<20} {text}" for name, text in VARIABLES.items()),
        "\b\nStart with:\n  criteria hpo demo",
    )
)


INTERRUPTED = 130


class Command(TyperCommand):
    """A command whose help names arguments as people know them: no braces, no Python types."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def get_help(self, ctx: Any) -> str:
        return super().get_help(ctx).replace(" <str>", " " * len(" <str>"))


app = typer.Typer(
    name="criteria",
    help="Find the best fine-tuned cross-encoder for one question: does this post show this "
    "criterion?",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for _module, _summary in (
    (probe_vram, "Measure what fits on this machine's devices"),
    (hpo, "Start or join a study"),
    (train, "Fine-tune one configuration, with an honest estimate"),
    (status, "Show all studies, or one in detail"),
    (predict, "Score new posts"),
    (report, "Write a study's plots as a page, as pictures or for a tracker"),
    (doctor, "Show versions, devices, store and disk, for a bug report"),
    (init, "Write a study file to start from"),
):
    app.command(
        name=_module.NAME,
        short_help=_summary,
        cls=Command,
        epilog=_module.EXAMPLES,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )(with_debug(_module.command))

_storage = typer.Typer(help="Care for a store", no_args_is_help=True, rich_markup_mode=None)
_storage.command(name=storage.NAME, epilog=storage.EXAMPLES)(with_debug(storage.command))
_storage.callback()(lambda: None)
app.add_typer(_storage, name="storage")


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"criteria {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            is_eager=True,
            show_default=False,
            help="Show the version.",
        ),
    ] = False,
) -> None:
    del version


def main() -> int:
    """Run one command and return its exit code."""
    os.umask(0o077)
    # a core dump would hold posts
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    _open_streams()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace", line_buffering=name == "stderr")
    polite_stderr()
    arguments = with_watch_value(sys.argv[1:])
    debug = "--debug" in arguments or os.environ.get("CRITERIA_DEBUG") == "1"
    try:
        _find_place()
        if arguments[:1] in (["hpo"], ["train"]):
            answer_before_work()
        if "_CRITERIA_COMPLETE" not in os.environ:
            for message in unknown_variables(os.environ):
                failures.warn(message)
        result = app(arguments, prog_name="criteria", standalone_mode=False)
        sys.stdout.flush()
        if result == INTERRUPTED:  # Typer makes an exit code of KeyboardInterrupt
            raise KeyboardInterrupt
    except OSError as error:
        return _output_failed(error, arguments, debug)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 0
    except BaseException as error:  # the one place that turns what happened into an exit code
        return failures.report(error, arguments=arguments, debug=debug)
    return result if isinstance(result, int) else 0


def _open_streams() -> None:
    """Have something behind every stream that a shell closed: what is said there is for nobody, and
    no file that is opened later, and no child, takes its place.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _find_place() -> None:
    """Be somewhere, and have a home: a container's user may have none, then `/` is it, as there."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError(
            "the working directory was removed", hint="cd to one that exists", code="usage.folder"
        ) from None


def with_watch_value(arguments: list[str]) -> list[str]:
    """`--watch` alone is `--watch=2`: Typer knows no option whose value may be left out."""
    found: list[str] = []
    rest = iter(range(len(arguments)))
    for place in rest:
        argument = arguments[place]
        following = arguments[place + 1 : place + 2]
        if argument != "--watch":
            found.append(argument)
        elif following and re.fullmatch(r"-?[\d.]+", following[0]):
            found.append(f"--watch={following[0]}")
            next(rest, None)
        else:
            found.append("--watch=2")
    return found


def _output_failed(error: OSError, arguments: list[str], debug: bool) -> int:
    """Standard output is gone: silently for a closed pipe, in one line for a full disk."""
    ours = error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC)
    if not ours:
        return failures.report(error, arguments=arguments, debug=debug)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        return 0
    sys.stderr.write("error: cannot write the output: no space left on device\n")
    return 1
