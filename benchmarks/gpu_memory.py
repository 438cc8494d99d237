"""What only a card can show about memory; `gpu.sh` runs all of it.

    python benchmarks/gpu_memory.py [--device cuda:N] [--quick] [--json FILE] PART...

PART is any of
- `prediction`: the memory model's peaks against measured ones, over rows and lengths;
- `cards`: the maximum found on the card, held to the size of smaller ones by CRITERIA_VRAM_LIMIT,
  against every size near it (`searched`), seconds and steps, beside Lightning's finder;
- `variable`: optimiser steps on batches of many lengths, packed to the limit: errors, retries;
- `exactness`: the gradient of a batch in micro-batches against the whole batch's, under autocast,
  beside the noise of running the same twice.

On a card it is a model of DeBERTa-v3-base's size (its configuration, random weights) at 512 tokens.
With `--device simulated:16GiB` the built-in model stands in, on a simulated card: that shows that
the script works, and nothing about a card. FILE is a JSON object of parts; others in it are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import finders
import numpy as np
import torch
from finders import Subject
from transformers import DebertaV2Config

from criteria_cli.study.spec import AugmentationSpec, Hyperparameters, ModelSpec, TrainingSpec
from criteria_cli.training.batches import MicroBatch, Planner, balanced_split, in_order
from criteria_cli.training.costs import PhaseClock
from criteria_cli.training.devices import Device, Precision
from criteria_cli.training.losses import build_loss
from criteria_cli.training.memory import Limits
from criteria_cli.training.model import encoder_from_config
from criteria_cli.training.opening import open_device
from criteria_cli.training.probe import Probed, ProbeSettings, probe
from criteria_cli.training.replay import Attempt, run_batch
from criteria_cli.training.resident import ResidentModel
from criteria_cli.training.step import TrainingStep
from criteria_cli.training.token_pairs import TokenBatch
from criteria_cli.training.visible import LIMIT_VARIABLE

GIB = 2**30
SCALE = 768
"""Of a simulated card: the built-in model's weights then take what DeBERTa-v3-base's do."""


BASE: dict[str, Any] = {
    "vocab_size": 128100, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "position_buckets": 256, "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "position_biased_input": False, "type_vocab_size": 0, "pooler_hidden_size": 768,
}  # fmt: skip
"""DeBERTa-v3-base's configuration."""


@dataclass(frozen=True)
class Bench:
    """What is run, and where."""

    device: str
    model: ModelSpec
    precisions: tuple[Precision, ...]
    sizes_gib: tuple[int, ...]
    steps: int = 300
    batch: int = 64
    below: int = 12
    """How many sizes below the found one are searched too."""

    @property
    def simulated(self) -> bool:
        return self.device.startswith("simulated:")

    @contextlib.contextmanager
    def held_to(self, gib: int) -> Iterator[str]:
        """The name of the device while it stands for one of this size."""
        if self.simulated:
            yield f"simulated:{gib}GiB,scale={SCALE}"
            return
        os.environ[LIMIT_VARIABLE] = f"{gib}GiB"
        try:
            yield self.device
        finally:
            del os.environ[LIMIT_VARIABLE]

    def settings(self, name: str, precision: Precision) -> ProbeSettings:
        return ProbeSettings(name, self.model, TrainingSpec(precision=precision))


def bench_on(device: str, folder: Path, *, quick: bool = False) -> Bench:
    """DeBERTa-v3-base's size on a card; the built-in model on a simulated one."""
    if device.startswith("simulated:"):
        model = ModelSpec(name="builtin:tiny-deberta-v2", max_length=96)
        return Bench(device, model, ("fp32",), (8, 16), steps=6, batch=16)
    DebertaV2Config(**BASE).save_pretrained(folder)
    model = ModelSpec(name=str(folder), max_length=512)
    bench = Bench(device, model, ("bf16", "fp32"), (8, 12, 16, 24, 48))
    return replace(bench, sizes_gib=(12,), steps=20, below=2) if quick else bench


def prediction(bench: Bench) -> list[dict[str, Any]]:
    """Requested bytes of steps of many shapes, as the memory model says and as measured."""
    rows = []
    for precision in bench.precisions:
        name = f"{bench.device},scale={SCALE}" if bench.simulated else bench.device
        probed = probe(bench.settings(name, precision), refresh=True)
        device = open_device(name)
        device.use_allocator(probed.memory.allocator)
        longest, scoring = bench.model.max_length, encoder_from_config(bench.model)
        with device.use():
            subject = Subject(bench.model, precision, lambda at=device: at, probed.cap_bytes)
            meter = finders.step_meter(subject, device, scoring)
            for length in (longest // 8, longest // 4, longest // 2, longest):
                most = min(128, probed.limits.max_rows(length))
                for count in sorted({1, max(1, most // 4), most}):
                    seen = meter.train(count, length)
                    predicted = probed.memory.train.at(count, length)
                    rows.append(
                        {
                            "precision": precision,
                            "rows": count,
                            "length": length,
                            "predicted_bytes": predicted,
                            "measured_bytes": seen.requested,
                            "reserved_bytes": seen.reserved,
                            "relative_error": predicted / max(1, seen.requested) - 1.0,
                            "out_of_memory": seen.out_of_memory,
                            "retries": seen.retries,
                        }
                    )
        del meter
    return rows


def cards(bench: Bench) -> list[dict[str, Any]]:
    """The probe, exhaustive search and Lightning's finder at each size."""
    found = []
    precision = bench.precisions[0]
    for gib in bench.sizes_gib:
        with bench.held_to(gib) as name:
            settings = bench.settings(name, precision)
            started = time.perf_counter()
            probed = probe(settings, refresh=True)
            seconds = time.perf_counter() - started
            open_device(name).use_allocator(probed.memory.allocator)
            subject = Subject(
                bench.model, precision, lambda at=name: open_device(at), probed.cap_bytes
            )
            card = {
                "capacity_bytes": gib * GIB,
                "allocator": probed.memory.allocator,
                "cap_bytes": probed.cap_bytes,
                "found": probed.train_rows,
                "exhaustive": exhaustive(subject, probed.train_rows, bench.below),
                "searched": [max(1, probed.train_rows - bench.below), probed.train_rows + 3],
                "steps": probed.steps,
                "further_steps": probed.further_steps,
                "ooms": probed.ooms,
                "seconds": seconds,
                "finders": {},
            }
            if importlib.util.find_spec("lightning"):
                card["finders"]["lightning_binsearch"] = finders.lightning(
                    subject, "binsearch"
                ).to_json()
            found.append(card)
    return found


def exhaustive(subject: Subject, guess: int, below: int) -> int:
    """The largest that fits of every size from so many below the guess to three above it, and on
    until three in a row do not fit."""
    device, scoring = subject.open(), encoder_from_config(subject.model)
    fits, failed = 0, 0
    with device.use():
        meter = finders.step_meter(subject, device, scoring)
        rows = max(0, guess - below - 1)
        while failed < 3 or rows < guess + 3:
            rows += 1
            if meter.train(rows, subject.model.max_length).fits:
                fits, failed = rows, 0
            else:
                failed += 1
    del meter
    gc.collect()
    device.empty_cache()
    return fits


class Training:
    """Batches of made-up pairs through the step that training runs."""

    def __init__(
        self, bench: Bench, device: Device, precision: Precision, limits: Limits, *, dropout: bool
    ) -> None:
        model = bench.model
        if not dropout:
            rates = ("hidden_dropout", "attention_dropout", "classifier_dropout")
            model = model.model_copy(update=dict.fromkeys(rates, 0.0))
        training = TrainingSpec(precision=precision)
        encoder: Any = encoder_from_config(model)
        self.planner = Planner(limits)
        self.device = device
        self.model = ResidentModel(encoder, device, self.planner, precision)
        optimizer = self.model.begin(Hyperparameters(model, training, AugmentationSpec()))
        self.model.module.train()
        clock, loss = PhaseClock(device.torch_device), build_loss(training, 1, 9)
        self.step = TrainingStep(self.model, optimizer, training, loss, clock)
        self._vocabulary = int(encoder.module.config.vocab_size)
        self._random = np.random.default_rng(0)

    def batch(self, lengths: np.ndarray[Any, Any]) -> Callable[[MicroBatch], Any]:
        """Pairs of these lengths; gives any micro-batch of them."""
        width = int(lengths.max())
        ids = self._random.integers(5, self._vocabulary, (len(lengths), width), dtype=np.int64)
        ids[np.arange(width) >= lengths[:, None]] = 0
        labels = torch.from_numpy(self._random.integers(0, 2, len(lengths)).astype(np.float32))

        def part(micro_batch: MicroBatch) -> Any:
            rows = micro_batch.rows
            cut = np.zeros((len(rows), micro_batch.length), dtype=np.int64)
            cut[:, :width] = ids[rows, : micro_batch.length]
            return TokenBatch(cut, lengths[rows], None), labels[rows]

        return part

    def gradient(
        self, part: Callable[[MicroBatch], Any], plan: list[MicroBatch]
    ) -> list[torch.Tensor]:
        """Of each parameter, on the host."""
        for parameter in self.step.parameters:
            parameter.grad = None
        count = sum(len(micro_batch) for micro_batch in plan)
        self.step.accumulate((part(micro_batch) for micro_batch in plan), count)
        found = [p.grad.to("cpu") for p in self.step.parameters if p.grad is not None]
        for parameter in self.step.parameters:
            parameter.grad = None
        return found


def drawn_lengths(random: Any, count: int, mean: float, longest: int) -> np.ndarray[Any, Any]:
    """Lognormal, as posts are, and cut at the longest."""
    sigma = 0.6
    drawn = np.exp(np.log(mean) - sigma**2 / 2 + sigma * random.standard_normal(count))
    return np.clip(np.round(drawn), 8, longest).astype(np.int64)


def variable(bench: Bench) -> list[dict[str, Any]]:
    """Steps of mixed lengths, every micro-batch as large as the memory model admits."""
    found = []
    random = np.random.default_rng(1)
    gib = bench.sizes_gib[1]
    for precision in bench.precisions[:1]:
        with bench.held_to(gib) as name:
            probed = probe(bench.settings(name, precision))
            device = open_device(name)
            device.use_allocator(probed.memory.allocator)
            device.set_cap(probed.cap_bytes)
            with device.use():
                training = Training(bench, device, precision, probed.limits, dropout=True)
                found.append(_variable(bench, training, random, probed))
    return found


def _variable(bench: Bench, training: Training, random: Any, probed: Probed) -> dict[str, Any]:
    device, longest = training.device, bench.model.max_length
    device.reset_peak()
    micro_batches, fullest = 0, 0.0
    started = time.perf_counter()
    for _ in range(bench.steps):
        lengths = drawn_lengths(random, bench.batch, 0.5 * longest, longest)
        part = training.batch(lengths)

        def accumulate(attempt: Attempt, part: Any = part) -> int:
            training.step.accumulate((part(one) for one in attempt), bench.batch)
            return len(attempt)

        # as full as the limits admit, not as cheap as may be: the hardest case for the allocator
        plan = in_order(lengths, probed.limits.train)
        micro_batches += run_batch(
            lengths, accumulate, planner=training.planner, device=device,
            parameters=training.step.parameters, plan=plan,
        )  # fmt: skip
        training.step.update(1e-6)
        wanted = [probed.memory.train.at(len(one), one.length) for one in plan]
        fullest = max(fullest, max(wanted) / probed.cap_bytes)
    device.synchronize()
    peak = device.peak()
    return {
        "precision": probed.precision,
        "capacity_bytes": device.total_bytes(),
        "allocator": probed.memory.allocator,
        "steps": bench.steps,
        "micro_batches": micro_batches,
        "ooms": peak.ooms,
        "allocator_retries": peak.retries,
        "reserved_of_cap": peak.reserved / probed.cap_bytes,
        "fullest_predicted_of_cap": fullest,
        "seconds": time.perf_counter() - started,
    }


def exactness(bench: Bench) -> list[dict[str, Any]]:
    """How far a split gradient is from the whole one, beside the same done twice."""
    rows = []
    random = np.random.default_rng(2)
    name = f"{bench.device},scale={SCALE}" if bench.simulated else bench.device
    device = open_device(name)
    for precision in bench.precisions:
        probed = probe(bench.settings(name, precision))
        with device.use():
            training = Training(bench, device, precision, probed.limits, dropout=False)
            longest = bench.model.max_length
            size = min(32, probed.train_rows)
            lengths = drawn_lengths(random, size, 0.5 * longest, longest)
            part = training.batch(lengths)
            order = np.argsort(-lengths, kind="stable")
            whole = [MicroBatch(order, _padded(lengths, longest))]
            thirds = np.split(order, np.cumsum(balanced_split(size, -(-size // 3)))[:-1])
            split = [MicroBatch(rows, _padded(lengths[rows], longest)) for rows in thirds]
            true = training.gradient(part, whole)
            again = training.gradient(part, whole)
            found = training.gradient(part, split)
            del training
        rows.append(
            {
                "precision": precision,
                "batch": size,
                "micro_batches": [len(one) for one in split],
                "difference": _difference(found, true),
                "difference_of_a_repetition": _difference(again, true),
            }
        )
    return rows


def _difference(found: list[torch.Tensor], true: list[torch.Tensor]) -> float:
    """Relative, over all parameters together."""
    pairs = [(one.double(), other.double()) for one, other in zip(found, true, strict=True)]
    off = sum(float((one - other).square().sum()) for one, other in pairs)
    return float((off / sum(float(other.square().sum()) for _, other in pairs)) ** 0.5)


def _padded(lengths: np.ndarray[Any, Any], longest: int) -> int:
    return min(longest, -(-int(lengths.max()) // 8) * 8)


PARTS: dict[str, Callable[[Bench], list[dict[str, Any]]]] = {
    "prediction": prediction,
    "cards": cards,
    "variable": variable,
    "exactness": exactness,
}


def keep(path: Path, part: str, card: str, rows: list[dict[str, Any]]) -> None:
    """Write one part, beside those that are there already."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept |= {"schema": "criteria.benchmark.gpu/1", "card": card, "torch": torch.__version__}
    path.write_text(json.dumps(kept | {part: rows}, indent=1) + "\n")


def card_or_exit(device: str) -> str:
    """The device's name; exit 3 with one line where there is no such device."""
    from criteria_cli.errors import CriteriaError

    try:
        return open_device(device).name
    except CriteriaError as error:
        print(f"not measured: {error.message}", file=sys.stderr)
        raise SystemExit(3) from None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", choices=PARTS, nargs="+", metavar="PART")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--quick", action="store_true", help="one size and few steps")
    parser.add_argument("--json", type=Path, help="the file that keeps the parts")
    options = parser.parse_args()
    card = card_or_exit(options.device)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        bench = bench_on(options.device, Path(folder) / "model", quick=options.quick)
        for part in options.parts:
            started = time.perf_counter()
            rows = PARTS[part](bench)
            print(f"{part} on {card}, {time.perf_counter() - started:.0f} s")
            for row in rows:
                print(json.dumps({key: _short(value) for key, value in row.items()}), flush=True)
            if options.json:
                keep(options.json, part, card, rows)


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
