"""`criteria hpo`: start or join a study."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from shlex import quote
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
    Settings,
    Storage,
    Study,
    flags,
    hours,
    number_or_auto,
    whole_number,
)
from criteria_cli.cli.definitions import definition_of, described_data, refuse_searched, tell
from criteria_cli.cli.environment import runs_directory
from criteria_cli.cli.failures import warn
from criteria_cli.cli.folders import nothing_left_if_refused
from criteria_cli.cli.layout import is_terminal, line, show, width_of
from criteria_cli.cli.store import Store, store
from criteria_cli.cli.words import count, score

if TYPE_CHECKING:
    from criteria_cli.data.summary import DataSummary
    from criteria_cli.hpo.events import HpoEvent, Observer, StudyView
    from criteria_cli.hpo.options import SearchOptions, SearchResult
    from criteria_cli.study.files import Definition

NAME = "hpo"
EXAMPLES = (
    "\b\nExamples:\n"
    "  criteria hpo demo\n"
    "  criteria hpo pc_ce --data data/redsm5 --trials 200 --workers auto\n"
    "  criteria hpo my.toml --set training.epochs=20 --dry-run"
)


def command(
    study: Study,
    storage: Storage = None,
    name: Name = None,
    data: Data = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            metavar="N",
            parser=whole_number(1),
            show_default=False,
            help="The study's whole budget, over all workers and restarts.",
        ),
    ] = None,
    confirm: Annotated[
        int | None,
        typer.Option(
            "--confirm",
            metavar="K",
            parser=whole_number(0),
            show_default=False,
            help="When the budget is spent, finish the K most promising stopped trials.",
        ),
    ] = None,
    hour: Annotated[
        float | None,
        typer.Option(
            "--hours",
            metavar="H",
            parser=hours,
            show_default=False,
            help="Take no more trials after H hours.",
        ),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            "--workers",
            metavar="auto|N",
            parser=number_or_auto(1),
            help="Workers of this command; `auto` is one per visible device.",
        ),
    ] = "1",
    device: DeviceName = "auto",
    headroom: Headroom = None,
    settings: Settings = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Start or join a study; run it in as many terminals as there are devices."""
    definition = definition_of(
        study,
        settings,
        flags(
            name=("--name", "name", name),
            data=("--data", "data.path", data),
            trials=("--trials", "budget.trials", trials),
            confirm=("--confirm", "budget.confirm", confirm),
            headroom=("--headroom", "training.vram_headroom", headroom),
        ),
    )
    refuse_searched(definition)
    place = store(storage)
    options = _options(
        definition,
        place,
        trials=trials,
        confirm=confirm,
        hours=hour,
        workers="auto" if workers == "auto" else int(workers),
        device=device,
    )
    summary = described_data(definition)
    planned = definition.spec.budget.trials
    if not definition.spec.search and planned > 1:
        warn(
            f"nothing is searched, {planned} trials would be alike: a `[search]` names what differs"
        )
    if dry_run:
        _show_plan(definition, summary, options, place, as_json=as_json)
        return 0
    again = _with_flags(study, {"--name": name, "--data": data, "--storage": storage})
    return _run(again, definition, summary, options, place, as_json=as_json)


def _with_flags(study: str, given: Mapping[str, str | None]) -> str:
    """The study and the flags that another command about it needs too."""
    words = [study, *(f"{flag} {quote(value)}" for flag, value in given.items() if value)]
    return " ".join(words)


def _options(
    definition: Definition,
    place: Store,
    *,
    trials: int | None,
    confirm: int | None,
    hours: float | None,
    workers: int | Literal["auto"],
    device: str,
) -> SearchOptions:
    from criteria_cli.hpo.options import SearchOptions

    return SearchOptions(
        storage=place.address,
        runs=runs_directory(),
        name=definition.spec.name,
        trials=trials,
        confirm=confirm,
        hours=hours,
        workers=workers,
        device=device,
    )


def _run(
    again: str,
    definition: Definition,
    summary: DataSummary,
    options: SearchOptions,
    place: Store,
    *,
    as_json: bool,
) -> int:
    from criteria_cli import wiring
    from criteria_cli.cli.definition_screen import data_lines, folds_screen
    from criteria_cli.cli.display import watching

    def introduce() -> None:
        show(data_lines(definition.spec.name, summary, width_of(sys.stderr)), sys.stderr)
        # in a terminal a line between the data and the screen, in a log the folds
        show([line()] if is_terminal(sys.stderr) else folds_screen(summary, None), sys.stderr)

    folder = options.runs / definition.spec.name
    with nothing_left_if_refused(folder), watching(str(folder / "hpo.log")) as observer:
        result = wiring.search(definition, options, _introduced(observer, introduce))
    if as_json:
        print_json(result.status.to_json(), indent=None)
    else:
        _conclude(again, summary, place, result)
    return 0


def _introduced(observer: Observer, introduce: Callable[[], None]) -> Observer:
    """The observer, with an introduction before the first that it hears: a search that devices or
    the store refuse is told in one line."""
    heard = False

    def listen(event: HpoEvent | StudyView) -> None:
        nonlocal heard
        if not heard:
            heard = True
            introduce()
        observer(event)

    return listen


def _show_plan(
    definition: Definition,
    summary: DataSummary,
    options: SearchOptions,
    place: Store,
    *,
    as_json: bool,
) -> None:
    from criteria_cli import wiring
    from criteria_cli.cli.definition_screen import (
        baseline_words,
        data_lines,
        folds_screen,
        plan_document,
        settings_screen,
    )

    found = wiring.rehearse_search(definition, options, summary)
    if as_json:
        print_json(plan_document(definition, summary, found))
        return
    width = width_of(sys.stdout)
    spec = definition.spec
    show(
        [
            *data_lines(spec.name, summary, width),
            line(baseline_words(summary, spec.validation.metric)),
            line(f"store   {place.shown}: {found['store']}"),
            line(f"results {options.runs / spec.name}"),
            line(f"device  {options.device}: {found['device']}"),
            line(f"model   {spec.model.name}: {found['model']}"),
            line(),
            *folds_screen(summary, width),
            line(),
            *settings_screen(definition, width),
        ]
    )
    tell("dry run: everything was checked, nothing was written")


def _conclude(again: str, summary: DataSummary, place: Store, result: SearchResult) -> None:
    """Three lines: the result, where it is, what to type next."""
    from criteria_cli.study.explain import shown_path

    status = result.status
    over = "" if result.ended == "finished" else ", the time is over"
    best = (
        "no trial complete"
        if status.best is None
        else f"best {status.metric} {score(status.best.value)} (trial {status.best.trial}), "
        f"yes to every pair {score(summary.baseline)}"
    )
    spent = f"{status.trials.finished} of {count(status.target, 'trial')}"
    if status.pruning.confirm.complete:
        spent += f", {status.pruning.confirm.complete} confirmed"
    tell(f"{status.name}: {spent}{over}, {best}")
    for trouble in status.troubles:
        if trouble.code == "over_budget":
            tell(f"{trouble.message}; {trouble.hint}")
    tell(f"store {place.shown}, log {shown_path(result.log)}")
    done = result.ended == "finished" and status.best is not None
    following = f"criteria train {again} --from best" if done else "the same command again"
    tell(f"next: {following}")
