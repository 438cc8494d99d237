"""What `criteria probe-vram` shows: what a device has, what fits, what it means for a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from criteria_cli.cli.layout import Column, Line, Row, Span, line, table, wrapped
from criteria_cli.cli.words import bar, cleaned, duration, percent, size

if TYPE_CHECKING:
    from criteria_cli.data.summary import DataSummary
    from criteria_cli.study.spec import StudySpec
    from criteria_cli.training.probe import Probed, Unusable

PROBE_SCHEMA = "criteria.probe/1"
LENGTHS = (32, 64, 128, 256, 384, 512, 1024, 2048, 4096, 8192)
LABEL = 9
"""Columns of the word in front of a line."""


def probe_document(devices: Sequence[Probed | Unusable], spec: StudySpec) -> dict[str, Any]:
    """The document of `probe-vram --json`."""
    from criteria_cli.training.probe import Unusable

    return {
        "schema": PROBE_SCHEMA,
        "devices": [
            _unusable_json(one) if isinstance(one, Unusable) else _device_json(one, spec)
            for one in devices
        ],
    }


def _unusable_json(one: Unusable) -> dict[str, Any]:
    card = one.card
    return {
        "device": card.device,
        "name": card.name,
        "total_bytes": card.total_bytes,
        "available_bytes": card.free_bytes,
        "used_bytes": card.total_bytes - card.free_bytes,
        "train": None,
        "eval": None,
        "memory_model": None,
        "plans": {},
        "error": one.error.message,
    }


def _device_json(one: Probed, spec: StudySpec) -> dict[str, Any]:
    return {
        "device": one.device,
        "name": one.name,
        "kind": one.kind,
        "total_bytes": one.total_bytes,
        "available_bytes": one.available_bytes,
        "used_bytes": one.used_bytes,
        "cap_bytes": one.cap_bytes,
        "headroom_bytes": one.headroom_bytes,
        "precision": one.precision,
        "cached": one.cached,
        "contended": one.contended,
        "limited_by": one.source,
        "elapsed_s": one.elapsed_s,
        "train": {
            "max_batch": one.train_rows,
            "steps": one.steps,
            "ooms": one.ooms,
            "verified": one.verified,
        },
        "eval": {"max_batch": one.evaluate_rows},
        "memory_model": one.memory.to_json(),
        "resident_bytes": dict(one.resident),
        "plans": {str(batch): plan for batch, plan in plans(one, spec).items()},
        "error": None,
    }


def batch_sizes(spec: StudySpec) -> list[int]:
    """The effective batches that the study may train."""
    for name in ("batch_size", "training.batch_size"):
        parameter = spec.search.get(name)
        if parameter is not None:
            return sorted({int(value) for value in parameter.extremes()})
    return [spec.training.batch_size]


def plans(one: Probed, spec: StudySpec) -> dict[int, list[int]]:
    """Micro-batches of each batch size at full length."""
    from criteria_cli.training.batches import balanced_split

    return {batch: balanced_split(batch, max(1, one.train_rows)) for batch in batch_sizes(spec)}


def probe_screen(
    devices: Sequence[Probed | Unusable],
    spec: StudySpec,
    data: DataSummary | None,
    width: int | None,
) -> list[Line]:
    """Every device, and what fits. Devices that hold the same are described once."""
    from criteria_cli.training.probe import Unusable

    lines: list[Line] = []
    if len(devices) > 1:
        lines += [*_overview(devices, width), line()]
    described: dict[tuple[object, ...], list[Probed]] = {}
    for one in devices:
        if isinstance(one, Unusable):
            text = one.error.message + (f"; {one.error.hint}" if one.error.hint else "")
            lines += [*_labelled(one.card.device, text, width), line()]
        else:
            alike = (one.name, one.total_bytes, one.train_rows, one.evaluate_rows)
            described.setdefault(alike, []).append(one)
    for same in described.values():
        lines += [*_detail(same, spec, data, width), line()]
    return lines[:-1]


def _overview(devices: Sequence[Probed | Unusable], width: int | None) -> list[Line]:
    from criteria_cli.training.probe import Unusable

    columns = [
        Column("DEVICE"),
        Column("NAME", shrink=True, rank=2),
        Column("TOTAL", right=True),
        Column("FREE", right=True),
        Column("OTHERS", right=True, rank=3),
        Column("CAP", right=True),
        Column("TRAIN", right=True),
        Column("EVAL", right=True),
        Column("FOUND", rank=1),
    ]
    rows: list[Row] = []
    for one in devices:
        if isinstance(one, Unusable):
            device, name = one.card.device, one.card.name
            total, free = one.card.total_bytes, one.card.free_bytes
            used = total - free
            fits = ["-", "-", "-", "too little"]
        else:
            device, name = one.device, one.name
            total, free, used = one.total_bytes, one.available_bytes, one.used_bytes
            fits = [size(one.cap_bytes), str(one.train_rows), str(one.evaluate_rows), _how(one)]
        rows.append([device, cleaned(name), size(total), size(free), size(used), *fits])
    return table(columns, rows, width)


def _how(one: Probed) -> str:
    if one.memory.source == "assumed":
        return "assumed"
    return "known" if one.cached else duration(one.elapsed_s)


def _labelled(label: str, text: str, width: int | None, style: str = "") -> list[Line]:
    """A word, and behind it a text that stays in its own column."""
    room = None if width is None else max(20, width - LABEL)
    first = label.ljust(LABEL) if len(label) < LABEL else f"{label}  "
    heads = [Span(first, style), *[Span(" " * LABEL)] * (len(text) + 1)]
    if len(first) > LABEL and room is not None:
        return [line(Span(label, style)), *_labelled("", text, width)]
    return [
        Line((head, *item.spans)) for head, item in zip(heads, wrapped(text, room), strict=False)
    ]


def _detail(
    same: Sequence[Probed], spec: StudySpec, data: DataSummary | None, width: int | None
) -> list[Line]:
    one = same[0]
    limit = "" if one.source == "device" else f"; the limit is that of the {one.source}"
    memory = (
        f"{size(one.total_bytes)} in all, {size(one.available_bytes)} free, "
        f"{size(one.used_bytes)} used by others{limit}"
    )
    about = [
        ("memory", memory),
        ("cap", f"{size(one.cap_bytes)}: what is free less {size(one.headroom_bytes)} headroom"),
        ("model", f"{cleaned(spec.model.name)}, {one.memory.max_length} tokens, {one.precision}"),
        *_found(one),
    ]
    label = ", ".join(each.device for each in same)
    lines = _labelled(label, cleaned(one.name), width, "strong")
    for word, text in about:
        lines += _labelled(word, text, width)
    lines += [line(), *_lengths(one, width), line(), *_plan_lines(one, spec, width)]
    lines += [line(), *_bytes(one, width)]
    estimate = _cost(one, spec, data)
    if estimate:
        lines += [line(), *_labelled("time", estimate, width)]
    return [item.fitted(width) for item in lines]


def _found(one: Probed) -> list[tuple[str, str]]:
    fits = (
        f"{one.train_rows} pairs of that length in a training step, "
        f"{one.evaluate_rows} in evaluation"
    )
    if one.memory.source == "assumed":
        how = "assumed from the model's shape: no step is measured on a processor"
        return [("fits", fits), ("how", how)]
    how = (
        "known from an earlier probe"
        if one.cached
        else f"found in {one.steps} steps, {one.ooms} out of memory, {duration(one.elapsed_s)}"
    )
    proof = "verified by a real step" if one.verified else "not verified under this cap"
    found = [("fits", fits), ("how", f"{how}; {proof}")]
    if one.contended:
        found.append(("warning", "others used the card meanwhile: this result is not kept"))
    return found


def _lengths(one: Probed, width: int | None) -> list[Line]:
    limits, longest = one.limits, one.memory.max_length
    columns = [
        Column("TOKENS", right=True),
        Column("TRAIN", right=True),
        Column("EVAL", right=True),
        Column("PEAK", right=True, rank=2),
        Column("OF THE CAP", rank=1),
    ]
    rows: list[Row] = []
    for length in [*(item for item in LENGTHS if item < longest), longest]:
        rows_that_fit = limits.train.max_rows(length)
        peak = one.memory.train.at(rows_that_fit, length) * one.memory.reserve_ratio
        share = peak / one.cap_bytes if one.cap_bytes else 0.0
        rows.append(
            [
                str(length),
                str(rows_that_fit),
                str(limits.evaluate.max_rows(length)),
                size(peak),
                f"{bar(share, 16)} {percent(share)}",
            ]
        )
    return table(columns, rows, width)


def _plan_lines(one: Probed, spec: StudySpec, width: int | None) -> list[Line]:
    columns = [Column("BATCH", right=True), Column("STEPS", right=True), Column("MICRO-BATCHES")]
    rows: list[Row] = [
        [str(batch), str(len(plan)), _repeated(plan)] for batch, plan in plans(one, spec).items()
    ]
    return table(columns, rows, width)


def _repeated(plan: Sequence[int]) -> str:
    """`22, 21 x 2`."""
    parts: list[str] = []
    for rows in dict.fromkeys(plan):
        times = plan.count(rows)
        parts.append(str(rows) if times == 1 else f"{rows} x {times}")
    return ", ".join(parts)


def _bytes(one: Probed, width: int | None) -> list[Line]:
    """Where the bytes of the largest training step go."""
    peak = one.memory.train.at(one.train_rows, one.memory.max_length)
    parts: dict[str, float] = dict(_named(one.resident))
    rest = peak - sum(parts.values())
    if rest > 0:
        parts["activations and the rest"] = rest
    if not parts:
        return []
    text = ", ".join(f"{name} {size(count)}" for name, count in parts.items())
    return _labelled("bytes", f"at {one.train_rows} pairs: {text}", width)


def _named(resident: Mapping[str, int]) -> list[tuple[str, float]]:
    return [(name.replace("_", " "), float(count)) for name, count in resident.items() if count]


def _cost(one: Probed, spec: StudySpec, data: DataSummary | None) -> str:
    if data is None or one.train_rows < 1:
        return ""
    longest = one.memory.max_length
    folds = data.folds
    trained = data.pairs * (folds - 1) / folds if folds > 1 else data.pairs
    trained *= spec.validation.train_fraction if folds == 1 else 1.0
    rows = one.limits.train.max_rows(longest)
    epoch = trained / rows * one.memory.train_seconds.at(rows, longest)
    batch = one.limits.evaluate.max_rows(longest)
    epoch += (data.pairs - trained) / batch * one.memory.evaluate_seconds.at(batch, longest)
    trial = epoch * folds * spec.training.epochs
    measured = one.memory.source != "assumed"
    return (
        f"{'at most' if measured else 'very roughly'} {duration(epoch)} an epoch of "
        f"{round(trained)} pairs, {duration(trial)} a trial of {folds} x {spec.training.epochs} "
        f"epochs, if every pair had {longest} tokens"
        f"{'' if measured else ', from an assumed speed of the processor'}; early stopping, "
        "pruning and shorter pairs make it less"
    )
