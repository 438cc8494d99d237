"""What `criteria train` says at its end: the honest estimate, beside it the optimistic one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from criteria_cli.cli.layout import Column, Line, Row, Span, line, table, wrapped
from criteria_cli.cli.words import cleaned, count, duration
from criteria_cli.study.final import TrainedModel

TRAIN_SCHEMA = "criteria.train/1"

METRICS = {
    "f1": "F1",
    "macro_f1": "macro F1",
    "precision": "precision",
    "recall": "recall",
    "auroc": "AUROC",
    "average_precision": "average precision",
}


def document(model: TrainedModel) -> dict[str, Any]:
    """The document of `train --json`."""
    return {
        "schema": TRAIN_SCHEMA,
        "model_dir": str(model.model_dir),
        "metrics": dict(model.metrics),
        "per_criterion": {key: dict(values) for key, values in model.per_criterion.items()},
        "folds": [dict(fold) for fold in model.folds],
        "cut_share": model.report["data"]["cut_share"],
        "elapsed_s": model.seconds,
    }


def model_screen(model: TrainedModel, width: int | None) -> list[Line]:
    """Pooled metrics, then each criterion's, then what else must be known of them."""
    lines = [*_pooled(model.metrics, width), line(), *_per_criterion(model.per_criterion, width)]
    lines.append(line())
    for sentence in _remarks(model):
        lines += wrapped(sentence, width)
    collapsed = model.metrics["collapsed_folds"]
    if collapsed:
        sentence = (
            f"in {count(len(collapsed), 'fold')} of {len(model.folds)} the model says the same of "
            "every pair: it learnt nothing there, do not use it"
        )
        lines += [line(Span(each.text, "bad")) for each in wrapped(sentence, width)]
    return lines


def _remarks(model: TrainedModel) -> list[str]:
    baseline = model.metrics["nested"]["all_positive_f1"]
    remarks = [f"calling every pair positive has F1 {baseline:.3f}"]
    evidence = model.metrics["evidence"]
    if evidence:
        remarks.append(
            f"of {count(evidence['pairs'], 'positive pair')} the heaviest sentence is an annotated "
            f"one in {evidence['precision_at_1']:.1%}, by chance in {evidence['chance']:.1%}"
        )
    replaced = sum(fold["augmentation"].get("augmentations_applied", 0) for fold in model.folds)
    if replaced:
        remarks.append(f"{replaced:.0f} times a rewritten post stood in for one of a positive pair")
    cut = model.report["data"]["cut_share"]
    if cut:
        remarks.append(f"{cut:.1%} of the pairs were cut to fit")
    return [*remarks, f"trained in {duration(model.seconds)}"]


def _pooled(metrics: Mapping[str, Any], width: int | None) -> list[Line]:
    nested, intervals = metrics["nested"], metrics.get("intervals") or {}
    optimistic = metrics.get("optimistic") or {}
    columns = [
        Column("OVER ALL PAIRS"),
        Column("NESTED", right=True),
        Column("95% INTERVAL", right=True),
        Column("OPTIMISTIC", right=True, rank=1),
    ]
    rows: list[Row] = [
        [
            words,
            Span(_number(nested.get(name)), "strong"),
            _interval(intervals.get(name)),
            _number(optimistic.get(name)),
        ]
        for name, words in METRICS.items()
        if name in nested
    ]
    return table(columns, rows, width)


def _per_criterion(criteria: Mapping[str, Mapping[str, Any]], width: int | None) -> list[Line]:
    columns = [
        Column("CRITERION", shrink=True),
        Column("POSITIVE", right=True),
        Column("F1", right=True),
        Column("95% INTERVAL", right=True),
        Column("PRECISION", right=True, rank=2),
        Column("RECALL", right=True, rank=2),
        Column("AUROC", right=True, rank=3),
        Column("AVG PRECISION", right=True, rank=4),
    ]
    rows: list[Row] = [
        [
            cleaned(name),
            f"{values.get('positives', 0):.0f}",
            _number(values.get("f1")),
            _interval((values.get("intervals") or {}).get("f1")),
            _number(values.get("precision")),
            _number(values.get("recall")),
            _number(values.get("auroc")),
            _number(values.get("average_precision")),
        ]
        for name, values in criteria.items()
    ]
    return table(columns, rows, width)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(bounds: Any) -> str:
    return "-" if not bounds else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
