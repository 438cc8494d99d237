"""A study as one HTML file that opens offline, or as PNG files for a paper.

The page asks the network for nothing: plotly's script is inside, and a content policy forbids the
rest. Every name that comes from the store is escaped. No text of a post is in a study's store.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from criteria_cli.errors import MachineError, UsageError
from criteria_cli.hpo.facts import StudyStatus
from criteria_cli.hpo.report_facts import StudyRecord
from criteria_cli.hpo.selection import read_spec, study_record
from criteria_cli.hpo.status import read_study
from criteria_cli.study.durable import private_folder

_TRACKED = re.compile(r"trial-\d+|mlflow\.db(-\w+)?|artifacts|wandb")
"""What the writers of `tracking` put into their folder."""

PAGE = Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:">
<meta name="viewport" content="width=device-width">
<title>$name</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2530; max-width: 1080px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; }
p { margin: .2rem 0 .6rem; color: #55606c; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #e3e7eb;
  vertical-align: top; }
th { font-weight: 600; color: #55606c; } td.n, th.n { text-align: right; }
.trouble { border-left: 3px solid #c1440e; padding-left: .7rem; color: #1c2530; }
@media print { body { max-width: none; } }
</style>
<script>$plotly</script></head><body>
<h1>$name</h1><p>$subtitle</p>
$troubles
$facts
<h2>Best trials</h2>$leaders
$plots
<h2>Definition</h2><p>What every worker of the study agreed on.</p>$definition
</body></html>
"""
)


def write_html(storage: str, name: str, path: Path, *, overwrite: bool) -> Path:
    """Write the page.

    Raises:
        UsageError: no such study, or the file exists.
        StoreError: the store cannot be read.
    """
    found, record = _read(storage, name)
    _refuse_existing(path, overwrite)
    _write(path, page(found, record).encode())
    return path


def write_png(storage: str, name: str, folder: Path, *, overwrite: bool) -> list[Path]:
    """Write one PNG per plot into a folder.

    Raises:
        UsageError: no such study, or the folder exists.
        MachineError: matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401  # asked for before anything is read
    except ImportError:
        raise MachineError(
            "PNG plots need matplotlib: pip install 'criteria[png]'", code="machine.package"
        ) from None
    from criteria_cli.hpo.paper import pictures

    _, record = _read(storage, name)
    _refuse_existing(folder, overwrite)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = []
    for key, content in pictures(record):
        _write(folder / f"{key}.png", content)
        written.append(folder / f"{key}.png")
    return written


def write_tracked(storage: str, name: str, folder: Path, tracker: str, *, overwrite: bool) -> Path:
    """Write a study for `tensorboard`, `mlflow` or `wandb` into a folder of its own.

    Raises:
        UsageError: no such study, or the folder exists.
        MachineError: the tracker's package is missing.
    """
    from criteria_cli.hpo.tracking import WRITERS, require

    require(tracker)
    _, record = _read(storage, name)
    _refuse_existing(folder, overwrite)
    _refuse_foreign(folder)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700, parents=True)
    WRITERS[tracker](record, folder)
    return folder


def _read(storage: str, name: str) -> tuple[StudyStatus, StudyRecord]:
    return read_study(storage, name), study_record(storage, name)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise UsageError(
            f"`{path.name}` exists, give `--overwrite` to replace it", code="usage.exists"
        )


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that has anything in it which no tracker's report puts there: the whole of it
    would be removed."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        other = True
    else:
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        other = not all(_TRACKED.fullmatch(name) for name in names)
    if other:
        raise UsageError(
            f"`{folder.name}` is no folder that a report wrote, it is not replaced",
            hint="name another folder with --out",
            code="usage.exists",
        )


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, readable by its owner alone.

    Raises:
        MachineError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        private_folder(path.parent)
        partial.unlink(missing_ok=True)  # it could be somebody else's
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise MachineError(
            f"cannot write `{path.name}`: {(error.strerror or 'unknown').lower()}",
            code="machine.disk",
        ) from None


def page(found: StudyStatus, record: StudyRecord) -> str:
    """The whole page."""
    from plotly.offline import get_plotlyjs

    counts = found.trials
    subtitle = (
        f"{counts.finished} of {found.target} trials, {counts.complete} complete, "
        f"{counts.pruned} pruned, {counts.failed} failed; {found.state}; {found.now}"
    )
    return PAGE.substitute(
        name=escape(found.name),
        subtitle=escape(subtitle),
        plotly=get_plotlyjs(),
        troubles="".join(
            f'<p class="trouble">{escape(trouble.message)}</p>' for trouble in found.troubles
        ),
        facts=_table(_facts(found, record)),
        leaders=_leaders(found),
        plots="".join(_plots(record)),
        definition=_table(_definition(record)),
    )


def _facts(found: StudyStatus, record: StudyRecord) -> list[tuple[str, str]]:
    best = found.best
    saved = found.pruning.saved_fraction
    data = record.definition["data"]
    rows = [
        ("best", "none yet" if best is None else f"{best.value:.4f} (trial {best.trial})"),
        ("metric", f"{found.metric}, mean over {found.folds} folds"),
        ("model", str(record.definition["model"]["name"])),
        ("data", f"{data['format']}, sha256 {(found.data_sha256 or '')[:16]}"),
        (
            "folds run",
            f"{found.pruning.folds_run} of {found.pruning.folds_full}"
            + ("" if saved is None else f", {saved:.0%} saved by pruning"),
        ),
        ("versions", ", ".join(f"{k} {v}" for k, v in sorted(found.versions.items()))),
    ]
    confirm = found.pruning.confirm
    if confirm.wanted:
        rows.append(("confirmed", f"{confirm.complete} of {confirm.wanted} stopped trials"))
    if best is not None:
        rows.insert(
            1, ("parameters", ", ".join(f"{k} = {_short(v)}" for k, v in best.params.items()))
        )
    return rows


def _leaders(found: StudyStatus) -> str:
    if not found.leaders:
        return "<p>No trial is complete yet.</p>"
    names = list(dict.fromkeys(name for leader in found.leaders for name in leader.params))
    head = ["trial", found.metric, "fold deviation", *names]
    rows = [
        [
            str(leader.trial),
            f"{leader.value:.4f}",
            "" if leader.fold_sd is None else f"{leader.fold_sd:.4f}",
            *(_short(leader.params.get(name, "")) for name in names),
        ]
        for leader in found.leaders
    ]
    cells = "".join(
        "<tr>" + "".join(f'<td class="n">{escape(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    titles = "".join(f'<th class="n">{escape(title)}</th>' for title in head)
    return f"<table><tr>{titles}</tr>{cells}</table>"


def _plots(record: StudyRecord) -> Iterable[str]:
    from criteria_cli.hpo.plots import PLOTS

    for plot in PLOTS:
        figure = plot.draw(record)
        yield f'<h2 id="{plot.key}">{plot.title}</h2><p>{plot.words}</p>'
        if figure is None:
            yield "<p>Not enough trials yet.</p>"
            continue
        figure.update_layout(
            template="plotly_white",
            margin={"l": 60, "r": 20, "t": 20, "b": 50},
            font={"family": "system-ui, sans-serif"},
        )
        yield figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=f"plot-{plot.key}",
            config={"displaylogo": False, "responsive": True},
        )


def _definition(record: StudyRecord) -> list[tuple[str, str]]:
    spec = read_spec(record.definition, record.study.study_name)
    return [(key, _short(value)) for key, value in spec.identity().items() if value is not None]


def _table(rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{escape(key)}</th><td>{escape(text)}</td></tr>" for key, text in rows)
    return f"<table>{body}</table>"


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return ", ".join(_short(item) for item in value)
    return str(value)
