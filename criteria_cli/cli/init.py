"""`criteria init`: a study file to start from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from criteria_cli.bundled import bundled_names
from criteria_cli.cli.arguments import Overwrite, _complete_study
from criteria_cli.cli.definitions import tell
from criteria_cli.cli.layout import line, show
from criteria_cli.errors import UsageError

NAME = "init"
EXAMPLES = "\b\nExamples:\n  criteria init my.toml\n  criteria init my.toml --like deberta_base_aug"


def command(
    path: Annotated[str, typer.Argument(metavar="FILE", help="The study file to write.")],
    like: Annotated[
        str,
        typer.Option(
            "--like",
            metavar="NAME",
            help=f"The bundled definition to copy: {', '.join(bundled_names())}.",
            autocompletion=_complete_study,
        ),
    ] = "optuna",
    overwrite: Overwrite = False,
) -> int:
    """Write a study file to start from: a copy of a bundled definition, all its settings in it."""
    from criteria_cli.study.explain import did_you_mean, shown_path
    from criteria_cli.study.files import find
    from criteria_cli.study.spec import NAME_PATTERN

    target = Path(path)
    if like not in bundled_names():
        raise UsageError(
            f"no bundled definition `{like}`{did_you_mean(like, bundled_names())}",
            hint=f"bundled: {', '.join(bundled_names())}",
        )
    if target.suffix != ".toml" or not NAME_PATTERN.match(target.stem):
        raise UsageError(f"`{shown_path(target)}` must end in `.toml` and have a plain name")
    if not target.parent.is_dir():
        raise UsageError(f"the folder of `{shown_path(target)}` does not exist")
    if target.exists() and not overwrite:
        raise UsageError(f"`{shown_path(target)}` exists, give `--overwrite` to replace it")
    text = find(like)[0].read_text(encoding="utf-8")
    text = re.sub(r'^name = ".*"$', f'name = "{target.stem}"', text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^#   criteria hpo .*$", f"#   criteria hpo {target}", text, flags=re.MULTILINE)
    target.write_text(text, encoding="utf-8")
    show([line(shown_path(target))])
    tell(f"next: criteria hpo {target} --dry-run")
    return 0
