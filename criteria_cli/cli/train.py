"""`criteria train`: the model people take home."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from criteria_cli.cli.answers import print_json
from criteria_cli.cli.arguments import (
    Data,
    DeviceName,
    DryRun,
    Headroom,
    Json,
    Name,
    Out,
    Overwrite,
    Settings,
    Storage,
    Study,
    flags,
    number_or_auto,
    whole_number,
)
from criteria_cli.cli.definitions import described_data, refuse_searched, tell
from criteria_cli.cli.environment import runs_directory, thread_count
from criteria_cli.cli.folders import nothing_left_if_refused
from criteria_cli.cli.layout import line, show, width_of
from criteria_cli.cli.store import store
from criteria_cli.errors import UsageError

if TYPE_CHECKING:
    from criteria_cli.data.summary import DataSummary
    from criteria_cli.study.files import Definition
    from criteria_cli.study.final import TrainOrder

NAME = "train"
EXAMPLES = (
    "\b\nExamples:\n"
    "  criteria train demo --from best\n"
    "  criteria train pc_ce --data data/redsm5 --batch-size 16 --out my-model\n"
    "  criteria train my.toml --from 17 --dry-run"
)


def trial_choice(text: str) -> str:
    """A parser of `best` or a trial's number."""
    if text != "best" and not text.isdecimal():
        raise typer.BadParameter(f"must be `best` or a trial's number, not `{text}`")
    return text


def command(
    study: Study,
    origin: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="best|N",
            parser=trial_choice,
            show_default=False,
            help="The study's trial to train; without it, the definition's own settings.",
        ),
    ] = None,
    storage: Storage = None,
    name: Name = None,
    data: Data = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            parser=whole_number(1),
            show_default=False,
            help="The effective batch: `training.batch_size`.",
        ),
    ] = None,
    eval_batch_size: Annotated[
        str | None,
        typer.Option(
            "--eval-batch-size",
            metavar="N|auto",
            parser=number_or_auto(1),
            show_default=False,
            help="The evaluation micro-batch.",
        ),
    ] = None,
    auto_batch: Annotated[
        bool | None,
        typer.Option(
            "--auto-batch/--no-auto-batch",
            show_default=False,
            help="Measure the device and split batches to fit; off unless the study file says so.",
        ),
    ] = None,
    device: DeviceName = "auto",
    headroom: Headroom = None,
    settings: Settings = None,
    out: Out = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Fine-tune one configuration: all folds for an honest estimate, then a model on all data."""
    from criteria_cli.study.single import single_definition

    given = flags(
        name=("--name", "name", name),
        data=("--data", "data.path", data),
        batch=("--batch-size", "training.batch_size", batch_size),
        evaluation=("--eval-batch-size", "training.eval_batch_size", eval_batch_size),
        auto=(
            "--auto-batch" if auto_batch else "--no-auto-batch",
            "training.auto_detect_batch_size",
            auto_batch,
        ),
        headroom=("--headroom", "training.vram_headroom", headroom),
    )
    definition = single_definition(study, settings=settings or (), flags=given)
    target = Path(out) if out is not None else runs_directory() / definition.spec.name / "model"
    if target.exists() and not overwrite:
        raise UsageError(
            f"`{target}` exists, give `--overwrite` to replace it", code="usage.exists"
        )
    if origin is not None:
        from criteria_cli import wiring

        refuse_searched(definition)
        definition = wiring.as_frozen(definition, store(storage).address)
    order = _order(definition, origin, storage, target, device)
    summary = described_data(definition)
    if dry_run:
        _show_plan(definition, summary, order, as_json=as_json)
        return 0
    return _run(replace(order, overwrite=overwrite), summary, as_json=as_json)


def _order(
    definition: Definition, origin: str | None, storage: str | None, target: Path, device: str
) -> TrainOrder:
    from criteria_cli import wiring
    from criteria_cli.study.final import TrainOrder

    spec = definition.spec
    order = TrainOrder(
        spec=spec,
        hyperparameters=spec.hyperparameters(),
        base=definition.base,
        directory=runs_directory() / spec.name,
        out=target,
        device=device,
        threads=thread_count(),
        seed=spec.validation.seed,
    )
    if origin is None:
        return order
    which: int | Literal["best"] = "best" if origin == "best" else int(origin)
    return wiring.order_from_trial(order, store(storage).address, which)


def _show_plan(
    definition: Definition, summary: DataSummary, order: TrainOrder, *, as_json: bool
) -> None:
    from criteria_cli.cli.definition_screen import (
        data_lines,
        folds_screen,
        plan_document,
        settings_screen,
    )
    from criteria_cli.study.frozen import as_sampled

    if order.trial is not None:
        definition = as_sampled(definition, order.hyperparameters, f"trial {order.trial}")
    if as_json:
        more = {"trains": order.origin, "model_dir": str(order.out)}
        print_json(plan_document(definition, summary, more))
        return
    width = width_of(sys.stdout)
    show(
        [
            *data_lines(definition.spec.name, summary, width),
            line(f"trains {order.origin}, model to {order.out}"),
            line(),
            *folds_screen(summary, width),
            line(),
            *settings_screen(definition, width),
        ]
    )
    tell("dry run: everything was checked, nothing was written")


def _run(order: TrainOrder, summary: DataSummary, *, as_json: bool) -> int:
    from criteria_cli import wiring
    from criteria_cli.cli.definition_screen import data_lines
    from criteria_cli.cli.signals import stopping
    from criteria_cli.cli.training_display import following
    from criteria_cli.cli.training_screen import document, model_screen

    show(data_lines(order.spec.name, summary, width_of(sys.stderr)), sys.stderr)
    tell(f"trains {order.origin}")
    with (
        nothing_left_if_refused(order.directory),
        stopping() as stopped,
        following(order, stopped) as report,
    ):
        model = wiring.train(order, report)
    if as_json:
        print_json(document(model))
        return 0
    tell("")
    show(model_screen(model, width_of(sys.stderr)), sys.stderr)
    show([line(str(model.model_dir))])
    tell(f"next: criteria predict {model.model_dir} POSTS.csv")
    return 0
