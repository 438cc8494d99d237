"""What `probe-vram` shows: one row for each device, everything in 80 columns, the same as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from criteria_cli.cli.probe_screen import probe_document, probe_screen
from criteria_cli.errors import MachineError
from criteria_cli.study.spec import StudySpec
from criteria_cli.training.memory import Curve, Limits, MemoryModel
from criteria_cli.training.probe import Probed, Unusable
from criteria_cli.training.visible import DeviceFacts

GIB = 2**30
MIB = 2**20
SPEC = StudySpec.model_validate(
    {
        "schema": 1,
        "name": "s",
        "data": {"format": "synthetic"},
        "model": {"name": "microsoft/deberta-v3-base"},
        "search": {"batch_size": {"choices": [16, 32, 64, 128]}},
    }
)
MODEL = MemoryModel(
    max_length=512,
    train=Curve(3041 * MIB, 18 * MIB, 0.7 * MIB, 0.00106 * MIB),
    evaluate=Curve(2110 * MIB, 0.0, 0.1 * MIB, 0.0),
    optimizer_peak=2900 * MIB,
    train_seconds=Curve(0.03, 0, 1e-5, 0),
    evaluate_seconds=Curve(0.01, 0, 3e-6, 0),
    allocator="expandable",
    verified_cap=int(21.3 * GIB),
    verified_rows=23,
    verified_evaluate_rows=250,
    resident={"parameters": 703 * MIB, "gradients": 703 * MIB, "optimizer": 1407 * MIB},
)


def probed(device: str = "cuda:0", cap: float = 21.3, **changes: Any) -> Probed:
    limits = Limits.under(MODEL, int(cap * GIB))
    found = Probed(
        device=device,
        name="NVIDIA GeForce RTX 3090",
        kind="cuda",
        identity=f"GPU-{device}",
        total_bytes=24 * GIB,
        available_bytes=int((cap + 2.4) * GIB),
        used_bytes=int((21.6 - cap) * GIB),
        cap_bytes=int(cap * GIB),
        headroom_bytes=int(2.4 * GIB),
        precision="bf16",
        key="k",
        cached=False,
        elapsed_s=14.2,
        train_rows=limits.max_rows(512),
        evaluate_rows=limits.evaluate.max_rows(512),
        steps=3,
        further_steps=8,
        ooms=1,
        verified=True,
        contended=False,
        memory=MODEL,
    )
    return replace(found, **changes)


FULL = Unusable(
    DeviceFacts("cuda:2", "NVIDIA GeForce RTX 3090", "GPU-2", 24 * GIB, GIB, "8.6", True),
    MachineError("not even the shortest pair fits in 0.3 GiB", hint="use a smaller model"),
)


def text_of(devices: list[Probed | Unusable], width: int | None = None) -> str:
    lines = probe_screen(devices, SPEC, None, width)
    if width is not None:
        assert all(len(item.text) <= width for item in lines)
    return "\n".join(item.text.rstrip() for item in lines)


def test_one_device() -> None:
    text = text_of([probed()])
    for expected in (
        "cuda:0   NVIDIA GeForce RTX 3090",
        "memory   24.0 GiB in all, 23.7 GiB free, 307.2 MiB used by others",
        "cap      21.3 GiB: what is free less 2.4 GiB headroom",
        "model    microsoft/deberta-v3-base, 512 tokens, bf16",
        "fits     23 pairs of that length in a training step, 250 in evaluation",
        "how      found in 3 steps, 1 out of memory, 14 s; verified by a real step",
        "64      3  22, 21 x 2",
        "128      6  22 x 2, 21 x 4",
        "bytes    at 23 pairs: parameters 703.0 MiB, gradients 703.0 MiB, optimizer 1.4 GiB",
    ):
        assert expected in text, text
    lengths = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()][:6]
    assert [int(row[0]) for row in lengths] == [32, 64, 128, 256, 384, 512]
    assert [int(row[1]) for row in lengths] == sorted([int(row[1]) for row in lengths])[::-1]
    assert lengths[-1][1:3] == ["23", "250"]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_it_fits(width: int) -> None:
    devices = [probed(), probed("cuda:1", 12.0), FULL]
    text = text_of(devices, width)
    assert "..." not in text.replace("NVIDIA GeForce...", "")
    for word in ("memory", "bytes", "how"):
        at = next(line for line in text.splitlines() if line.startswith(word))
        assert at[len(word) : 9].isspace()


def test_several_devices_have_a_row_each() -> None:
    text = text_of([probed(), probed("cuda:1", 12.0), FULL, probed("cuda:3")])
    head, *rows = text.splitlines()[:5]
    assert " ".join(head.split()) == "DEVICE NAME TOTAL FREE OTHERS CAP TRAIN EVAL FOUND"
    assert [row.split()[0] for row in rows] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert rows[2].split()[-5:] == ["-", "-", "-", "too", "little"]
    assert "cuda:2   not even the shortest pair fits in 0.3 GiB; use a smaller model" in text
    # those that hold the same are described once
    assert "cuda:0, cuda:3  NVIDIA" in text
    assert text.count("headroom") == 2


def test_a_processor_says_what_was_assumed_and_from_which_limit() -> None:
    memory = replace(MODEL, source="assumed", allocator="system", verified_cap=0)
    one = probed("cpu", kind="cpu", source="control group", memory=memory, verified=False, steps=0)
    text = text_of([one])
    assert "the limit is that of the control group" in text
    assert "assumed from the model's shape: no step is measured on a processor" in text
    assert "steps," not in text


def test_a_contended_card_is_marked() -> None:
    text = text_of([probed(contended=True, verified=False)])
    assert "not verified under this cap" in text
    assert "warning  others used the card meanwhile: this result is not kept" in text


def test_the_document() -> None:
    document = json.loads(json.dumps(probe_document([probed(), FULL], SPEC), allow_nan=False))
    one, full = document["devices"]
    assert one["train"] == {"max_batch": 23, "steps": 3, "ooms": 1, "verified": True}
    assert one["plans"]["64"] == [22, 21, 21]
    assert one["error"] is None
    assert full["error"] == "not even the shortest pair fits in 0.3 GiB"
    assert full["train"] is None
    assert set(full) <= set(one)


def test_two_cards_of_a_machine(tmp_path: Path, run_in: Any) -> None:
    """The command itself; the second card is of the first one's kind, beside a neighbour."""
    card = "simulated:8GiB,scale=768"
    ran = run_in(
        tmp_path,
        "probe-vram",
        "demo",
        "--json",
        env={
            "CRITERIA_TESTING": "1",
            "CRITERIA_SIMULATED": f"{card};{card},others=7GiB",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
    )
    assert ran.code == 0, ran.err
    alone, beside = json.loads(ran.out)["devices"]
    assert alone["train"]["verified"]
    assert alone["train"]["max_batch"] >= 4
    assert beside["error"] is not None
    assert beside["used_bytes"] > 7 * GIB
