"""`criteria predict`: scores for new posts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from criteria_cli.cli.answers import print_json
from criteria_cli.cli.arguments import DeviceName, Json, Out, Overwrite
from criteria_cli.cli.definitions import tell
from criteria_cli.cli.environment import thread_count
from criteria_cli.cli.failures import warn
from criteria_cli.cli.layout import line, show
from criteria_cli.cli.words import count, duration
from criteria_cli.errors import UsageError

if TYPE_CHECKING:
    from criteria_cli.study.prediction import PredictOrder, PredictResult

NAME = "predict"
EXAMPLES = (
    "\b\nExamples:\n"
    "  criteria predict runs/demo/model posts.csv\n"
    "  criteria predict my-model posts.jsonl --out scores.csv --abstain\n\n"
    "For research. It is not a diagnosis and must not be used as one."
)


def command(
    model_dir: Annotated[
        str, typer.Argument(metavar="MODEL_DIR", help="What `criteria train` wrote.")
    ],
    posts: Annotated[
        str, typer.Argument(metavar="INPUT", help="The posts: CSV, JSONL or Parquet.")
    ],
    out: Out = None,
    overwrite: Overwrite = False,
    device: DeviceName = "auto",
    abstain: Annotated[
        bool,
        typer.Option(
            "--abstain", show_default=False, help="Say `abstain` where a decision is close."
        ),
    ] = False,
    evidence: Annotated[
        bool,
        typer.Option(
            "--evidence",
            show_default=False,
            help="Name the sentences that carry each positive decision.",
        ),
    ] = False,
    include_text: Annotated[
        bool,
        typer.Option(
            "--include-text",
            show_default=False,
            help="Write the posts into the result, readable by you alone.",
        ),
    ] = False,
    id_column: Annotated[
        str, typer.Option("--id-column", metavar="NAME", help="The column of post ids.")
    ] = "post_id",
    text_column: Annotated[
        str | None,
        typer.Option(
            "--text-column",
            metavar="NAME",
            show_default=False,
            help="The column of posts; default: `post`, else `text`.",
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Score posts: an id, a criterion, a probability and a decision a line, and no text."""
    from criteria_cli.study.prediction import PredictOrder

    if posts == "-":
        raise UsageError("INPUT must be a file: standard input is not read", code="usage.stdin")
    source = Path(posts)
    if not source.exists():
        raise UsageError(f"`{source}` does not exist", code="data.missing")
    target = Path(out) if out is not None else Path(f"{source.stem}-scores.csv")
    if target.exists() and not overwrite:
        raise UsageError(
            f"`{target}` exists, give `--overwrite` to replace it", code="usage.exists"
        )
    order = PredictOrder(
        model_dir=Path(model_dir),
        input=source,
        out=target,
        overwrite=overwrite,
        device=device,
        threads=thread_count(),
        abstain=abstain,
        evidence=evidence,
        include_text=include_text,
        id_column=id_column,
        text_column=text_column,
    )
    if include_text:
        warn(f"`{target}` will hold the posts: keep it private")
    result = _run(order)
    if as_json:
        print_json(_document(result))
    else:
        tell(_summary(result))
        show([line(str(result.out))])
    return 0


def _run(order: PredictOrder) -> PredictResult:
    from criteria_cli import wiring
    from criteria_cli.cli.prediction_display import PredictionLine
    from criteria_cli.cli.signals import stopping

    with stopping() as stopped:
        progress = PredictionLine(stopped, sys.stderr)
        try:
            return wiring.predict(order, progress)
        finally:
            progress.close()


def _summary(result: PredictResult) -> str:
    parts = [
        count(result.posts, "post"),
        count(result.pairs, "decision"),
        f"{result.positives} present",
    ]
    if result.abstained:
        parts.append(f"{result.abstained} abstained")
    if result.cut:
        parts.append(f"{count(result.cut, 'post')} did not fit whole")
    if result.resumed:
        parts.append(f"{result.resumed} from an earlier run")
    return f"{', '.join(parts)}, {duration(result.seconds)}"


def _document(result: PredictResult) -> dict[str, object]:
    return {
        "schema": "criteria.predict/1",
        "out": str(result.out),
        "posts": result.posts,
        "pairs": result.pairs,
        "positives": result.positives,
        "abstained": result.abstained,
        "cut": result.cut,
        "resumed": result.resumed,
        "elapsed_s": result.seconds,
    }
