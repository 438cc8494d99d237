"""The memory probe on cards of many sizes, against exhaustive search and other tools' finders.

    pip install -e '.[bench]'
    python benchmarks/probe.py [--quick] [--json FILE]

No GPU is needed: the cards are simulated (`criteria_cli/training/simulated.py`), in both of the
allocator's behaviours. The built-in DeBERTa really trains; each of its bytes counts as 768, so
weights, gradients and Adam's state take what those of DeBERTa-v3-base do, and a pair takes about
what one of 512 tokens does in bf16 (615 MiB; 651 there). Exhaustive search runs every size, each
with a fresh model on a fresh card after a step of one pair, until the tensors alone exceed the cap.
Lightning's BatchSizeFinder and accelerate's find_executable_batch_size are run as installed, on the
same step and under the same cap (`finders.py`). That a real card behaves like the simulated one is
not shown here; `gpu.sh` would show it.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import finders
import torch
from finders import Found, Subject

from criteria_cli.study.spec import ModelSpec, TrainingSpec
from criteria_cli.training import probe_process
from criteria_cli.training.memory import cap_bytes, parse_headroom
from criteria_cli.training.model import encoder_from_config
from criteria_cli.training.opening import open_device
from criteria_cli.training.probe import Probed, ProbeSettings

SCALE = 768
GIB = 2**30
QUICK = (5, 6, 8, 10, 11, 12, 14, 16, 18, 20, 24, 32)
FULL = (*QUICK, 7, 9, 13, 28, 40, 48, 64, 80)
MODEL = ModelSpec(name="builtin:tiny-deberta-v2", max_length=96)
TRAINING = TrainingSpec(precision="fp32")
PEERS: dict[str, tuple[str, Callable[[Subject], Found]]] = {
    "lightning_power": ("lightning", lambda subject: finders.lightning(subject, "power")),
    "lightning_binsearch": ("lightning", lambda subject: finders.lightning(subject, "binsearch")),
    "accelerate": ("accelerate", finders.accelerate),
}


def subject_on(name: str) -> Subject:
    card = open_device(name)
    headroom = parse_headroom(TRAINING.vram_headroom).of(card.total_bytes())
    cap = cap_bytes(card.free_bytes(), 0, headroom)
    return Subject(MODEL, "fp32", lambda: open_device(name), cap)


def ours(name: str) -> Probed:
    """What the probe's process answers; asked here, which spares its start."""
    request = ProbeSettings(name, MODEL, TRAINING).to_json() | {"known": {}, "refresh": True}
    answer = probe_process.answer(request)
    assert "probed" in answer, answer
    return Probed.from_json(answer["probed"])


class Roomy:
    """What the tensors of a size ask for, where memory is no limit."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def __call__(self, rows: int) -> int:
        if rows not in self._known:
            subject = subject_on(f"simulated:1024GiB,scale={SCALE}")
            self._known[rows] = run(subject, rows).requested
        return self._known[rows]


def run(subject: Subject, rows: int) -> Any:
    device, scoring = subject.open(), encoder_from_config(subject.model)
    with device.use():
        meter = finders.step_meter(subject, device, scoring)
        meter.train(1, MODEL.max_length)  # what is made once per length is made
        return meter.train(rows, MODEL.max_length)


def exhaustive(subject: Subject, requested: Roomy) -> dict[str, int]:
    """The largest size that fits, and the largest that ends at all, if only by retries."""
    fits = ends = rows = 0
    while requested(rows + 1) <= subject.cap:
        rows += 1
        seen = run(subject, rows)
        fits = rows if seen.fits else fits
        ends = ends if seen.out_of_memory else rows
    return {"exhaustive": fits, "largest_with_retries": ends, "sizes": rows}


def answer_of(find: Callable[[Subject], Found], subject: Subject) -> dict[str, Any]:
    """What a finder found; nothing where it ended with an error of its own."""
    try:
        return find(subject).to_json()
    except (RuntimeError, KeyError) as error:
        text = f"{type(error).__name__}: {error}"
        return Found(0, 0, 0, 0, 0.0).to_json() | {"error": text}


def cards(sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    requested = Roomy()
    peers = {key: run for key, (library, run) in PEERS.items() if importlib.util.find_spec(library)}
    for missing in PEERS.keys() - peers.keys():
        print(f"{missing}: left out, not installed", file=sys.stderr)
    for gib in sorted(sizes):
        for allocator in ("expandable", "segments"):
            name = f"simulated:{gib}GiB,{allocator},scale={SCALE}"
            subject, probed = subject_on(name), ours(name)
            yield {
                "capacity_bytes": gib * GIB,
                "allocator": allocator,
                "cap_bytes": probed.cap_bytes,
                "found": probed.train_rows,
                **exhaustive(subject, requested),
                "steps": probed.steps,
                "ooms": probed.ooms,
                "further_steps": probed.further_steps,
                "found_in_evaluation": probed.evaluate_rows,
                "verified": probed.verified,
                "finders": {key: answer_of(find, subject) for key, find in peers.items()},
            }


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """For each finder: on how many cards it is right, and what it takes on average."""

    def of(answers: list[tuple[int, int, int, int]]) -> dict[str, Any]:
        short = [
            1 - answer / card["exhaustive"]
            for card, (answer, *_) in zip(found, answers, strict=True)
        ]
        return {
            "exact": sum(
                answer == c["exhaustive"] for c, (answer, *_) in zip(found, answers, strict=True)
            ),
            "too_large": sum(
                answer > c["exhaustive"] for c, (answer, *_) in zip(found, answers, strict=True)
            ),
            "mean_short": sum(max(0.0, share) for share in short) / len(short),
            "most_short": max(short),
            "mean_sizes": sum(tried for _, tried, _, _ in answers) / len(answers),
            "most_sizes": max(tried for _, tried, _, _ in answers),
            "mean_micro_batches": sum(passes for _, _, passes, _ in answers) / len(answers),
            "mean_ooms": sum(ooms for *_, ooms in answers) / len(answers),
            "most_ooms": max(ooms for *_, ooms in answers),
        }

    passes = finders.OPTIMIZER_STEPS * finders.MICRO_BATCHES
    result = {
        "criteria": of([(c["found"], c["steps"], passes * c["steps"], c["ooms"]) for c in found])
    }
    for key in found[0]["finders"]:
        answers = [card["finders"][key] for card in found]
        result[key] = of([(a["found"], a["tried"], a["micro_batches"], a["ooms"]) for a in answers])
    return {"cards": len(found), **result}


def table_row(card: dict[str, Any]) -> str:
    ours = f"{card['found']:6d} {card['steps']:5d} {card['ooms']:4d}"
    words = [
        f"{card['capacity_bytes'] / GIB:5g} {card['allocator']:10s} {card['exhaustive']:9d} {ours}"
    ]
    words += [
        f"{one['found']:6d} {one['tried']:5d} {one['ooms']:4d}" for one in card["finders"].values()
    ]
    return "  |".join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="12 capacities, a minute or two")
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for library in {library for library, _ in PEERS.values()}:
        if importlib.util.find_spec(library):
            importlib.import_module(library)
    gc.collect()
    gc.freeze()  # every measured step collects garbage: only what steps leave need be looked at
    found = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # what is found here is of no use to the user
        print("found, sizes tried and out-of-memory errors: criteria, then " + ", ".join(PEERS))
        print("  GiB allocator  exhaustive  found sizes ooms", flush=True)
        for card in cards(QUICK if options.quick else FULL):
            found.append(card)
            print(table_row(card), flush=True)
            if options.json:
                options.json.write_text(json.dumps(result_of(found), indent=1) + "\n")
    print(json.dumps(summary(found), indent=1))


def result_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema": "criteria.benchmark.probe/1",
        "device": "simulated cards; not run on a GPU",
        "model": {"name": MODEL.name, "max_length": MODEL.max_length, "bytes_scaled_by": SCALE},
        "versions": {
            name: version(name)
            for name in ("torch", "transformers", "lightning", "accelerate")
            if importlib.util.find_spec(name)
        },
        "summary": summary(found),
        "cards": found,
    }


if __name__ == "__main__":
    main()
