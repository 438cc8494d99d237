"""What `--dry-run` shows: the data and its folds, and each resolved setting with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from criteria_cli.cli.layout import Column, Line, Row, Span, line, table, wrapped
from criteria_cli.cli.words import cleaned, count, number, score

if TYPE_CHECKING:
    from criteria_cli.data.summary import DataSummary
    from criteria_cli.study.files import Definition


def data_line(data: DataSummary) -> str:
    """The data in a sentence."""
    share = 100 * data.positives / data.pairs
    grouped = f" in {data.groups} groups" if data.groups != data.posts else ""
    parts = [
        f"{data.posts} posts{grouped}",
        f"{data.criteria} criteria",
        f"{data.pairs} pairs",
        f"{data.positives} positive ({share:.1f}%)",
        count(data.folds, "fold"),
    ]
    if data.evidence_sentences:
        found = f"{data.evidence_found} of {data.evidence_sentences}"
        parts.append(f"{found} evidence sentences found in their posts")
    if data.collapsed:
        parts.append(f"{count(data.collapsed, 'repeated row')} dropped")
    if data.ignored:
        parts.append(f"{count(data.ignored, 'annotation')} without a criterion left out")
    return ", ".join(parts)


def data_lines(name: str, data: DataSummary, width: int | None) -> list[Line]:
    """The same under the study's name, in a terminal on as many lines as it needs."""
    return wrapped(f"{name}: {data_line(data)}", width)


def folds_screen(data: DataSummary, width: int | None) -> list[Line]:
    """Pairs, posts and positives per criterion, in all and per fold."""
    folds = sorted({item.fold for item in data.table})
    criteria = list(dict.fromkeys(item.criterion_id for item in data.table))
    cells = {(item.criterion_id, item.fold): item for item in data.table}
    names = {item.criterion_id: item.criterion_name for item in data.table}
    columns = [
        Column("CRITERION"),
        Column("NAME", rank=1, shrink=True),
        Column("PAIRS", right=True, rank=2),
        Column("POSTS", right=True, rank=3),
        Column("POSITIVE", right=True),
        *(Column(f"FOLD {fold}", right=True) for fold in folds),
    ]
    rows = []
    for criterion in criteria:
        own = [cells[criterion, fold] for fold in folds]
        rows.append(
            [
                cleaned(criterion),
                cleaned(names[criterion]),
                str(sum(item.pairs for item in own)),
                str(sum(item.posts for item in own)),
                str(sum(item.positives for item in own)),
                *(f"{item.positives}/{item.pairs}" for item in own),
            ]
        )
    totals = [[item for item in data.table if item.fold == fold] for fold in folds]
    rows.append(
        [
            "all",
            "",
            str(sum(item.pairs for item in data.table)),
            str(data.posts),
            str(sum(item.positives for item in data.table)),
            *(
                f"{sum(item.positives for item in fold)}/{sum(item.pairs for item in fold)}"
                for fold in totals
            ),
        ]
    )
    return [
        *table(columns, rows, width),
        *(
            line(Span(text, "dim"))
            for text in (
                "a fold's column: positive pairs / pairs that it holds out",
                "one criterion has as many posts as pairs",
            )
        ),
    ]


def settings_screen(definition: Definition, width: int | None) -> list[Line]:
    """Each setting, its value and where it came from."""
    columns = [Column("SETTING"), Column("VALUE", shrink=True), Column("FROM")]
    rows: list[Row] = [
        [key, setting(value), Span(source, "dim" if source == "default" else "")]
        for key, value, source in definition.settings()
        if value is not None or source != "default"
    ]
    return table(columns, rows, width)


def plan_document(
    definition: Definition, data: DataSummary, more: Mapping[str, object]
) -> dict[str, Any]:
    """What a dry run shows, for a program, with what its command adds."""
    counts = asdict(data)
    counts["folds"] = counts.pop("table")
    return {
        "schema": "criteria.plan/1",
        "name": definition.spec.name,
        **more,
        "data": counts,
        "settings": {
            key: {"value": value, "from": source} for key, value, source in definition.settings()
        },
    }


def setting(value: Any) -> str:
    """A setting's value in one line, near to how the file writes it."""
    if isinstance(value, Mapping):
        given = {
            key: item
            for key, item in value.items()
            if item is not None and not (key == "log" and item is False)
        }
        if "low" in given and "high" in given:
            extra = [key for key in ("log",) if given.get(key)]
            extra += [f"step {number(given['step'])}"] if "step" in given else []
            text = " ".join([f"{number(given['low'])} to {number(given['high'])}", *extra])
        elif "choices" in given:
            text = " | ".join(number(item) for item in given["choices"])
        else:
            text = ", ".join(f"{key} {setting(item)}" for key, item in given.items())
        if "when" in given:
            text += f" (when {_when(given['when'])})"
        return text
    if isinstance(value, list | tuple):
        return ", ".join(number(item) for item in value)
    return number(value)


def _when(condition: Any) -> str:
    if isinstance(condition, Mapping):
        return ", ".join(f"{key} is {number(item)}" for key, item in condition.items())
    return str(condition)


def baseline_words(data: DataSummary, metric: str) -> str:
    """The score to beat."""
    return f"a model that says yes to every pair has {metric} {score(data.baseline)}"
