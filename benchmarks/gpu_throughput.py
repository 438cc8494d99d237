"""How fast a card trains a model of DeBERTa-v3-base's size; `gpu.sh` runs it.

    python benchmarks/gpu_throughput.py [--device cuda:N] [--json FILE]

Pairs of mean length 150 and 380 (lognormal, cut at 512) in batches of 64, under bf16 autocast, with
random weights: each exact way to run the model, as `attention_choice.py` offers and checks them, in
micro-batches as training plans them, and Hugging Face's Trainer, grouped by length and with fused
AdamW, at the best of its splits of 64. A side trains once to warm up and compile; then all take
turns, and the median counts. MFU is the operations that unpadded tokens need in all layers, over
the best rate of a bf16 matrix product measured on the same card. With `--device cpu` the built-in
model stands in: that shows that the script works, no more.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from gpu_memory import Bench, Training, bench_on, card_or_exit, drawn_lengths, keep

from criteria_cli.study.spec import ModelSpec, TrainingSpec
from criteria_cli.training import tiny
from criteria_cli.training.attention import Forward, ReferenceForward
from criteria_cli.training.attention_choice import candidates, choose
from criteria_cli.training.opening import open_device
from criteria_cli.training.probe import ProbeSettings, probe
from criteria_cli.training.replay import Attempt, run_batch

MEAN_LENGTHS = (150, 380)
Epoch = Callable[[], float]
"""Trains once over the batches and gives the seconds it took."""


@dataclass(frozen=True)
class Work:
    """Pairs of one distribution of lengths, in batches that are drawn once for all sides."""

    bench: Bench
    mean: int
    batches: tuple[np.ndarray[Any, Any], ...]

    @property
    def tokens(self) -> int:
        return int(sum(lengths.sum() for lengths in self.batches))


def work_of(bench: Bench, mean: int, batches: int) -> Work:
    random = np.random.default_rng(mean)
    longest = bench.model.max_length
    scaled = mean * longest / 512
    drawn = [drawn_lengths(random, bench.batch, scaled, longest) for _ in range(batches)]
    return Work(bench, mean, tuple(drawn))


def ours(work: Work, training: Training, make: Callable[[], Forward]) -> Epoch:
    """The batches through one of the ways to run the model."""
    device, forward = training.device, make()
    made = [(lengths, training.batch(lengths)) for lengths in work.batches]

    def epoch() -> float:
        training.model.forward = forward
        device.synchronize()
        started = time.perf_counter()
        for lengths, part in made:

            def accumulate(attempt: Attempt, part: Any = part) -> None:
                training.step.accumulate((part(one) for one in attempt), work.bench.batch)

            run_batch(
                lengths, accumulate, planner=training.planner, device=device,
                parameters=training.step.parameters,
            )  # fmt: skip
            training.step.update(1e-6)
        device.synchronize()
        return time.perf_counter() - started

    return epoch


def hugging_face(work: Work, micro: int, model: Any, *, bf16: bool) -> Epoch:
    """transformers' Trainer on the same pairs."""
    from transformers import Trainer, TrainingArguments

    random = np.random.default_rng(0)
    lengths = np.concatenate(work.batches)
    rows = [
        {
            "input_ids": torch.from_numpy(random.integers(5, model.config.vocab_size, length)),
            "length": int(length),
            "labels": [float(random.integers(0, 2))],
        }
        for length in lengths
    ]
    on_card = work.bench.device != "cpu"

    def collate(chosen: list[dict[str, Any]]) -> dict[str, Any]:
        width = -(-max(row["length"] for row in chosen) // 8) * 8
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        mask = torch.zeros(len(chosen), width, dtype=torch.long)
        for at, row in enumerate(chosen):
            ids[at, : row["length"]] = row["input_ids"]
            mask[at, : row["length"]] = 1
        labels = torch.tensor([row["labels"] for row in chosen])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    class Rows(torch.utils.data.Dataset[dict[str, Any]]):
        column_names = ("input_ids", "length", "labels")

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, at: int) -> dict[str, Any]:
            return rows[at]

    def epoch() -> float:
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, per_device_train_batch_size=micro,
                gradient_accumulation_steps=work.bench.batch // micro, num_train_epochs=1,
                learning_rate=1e-6, report_to="none", save_strategy="no", logging_strategy="no",
                disable_tqdm=True, bf16=bf16, optim="adamw_torch_fused",
                train_sampling_strategy="group_by_length", remove_unused_columns=False,
                use_cpu=not on_card, dataloader_pin_memory=on_card,
            )  # fmt: skip
            trainer = Trainer(model, arguments, train_dataset=Rows(), data_collator=collate)
            # 5.23 multiplies a classifier's gradients by the accumulation steps otherwise
            trainer.loss_is_scaled_for_ga = False
            # its own clock, which leaves out what a new Trainer costs
            return float(trainer.train().metrics["train_runtime"])

    return epoch


def operations(lengths: np.ndarray[Any, Any], config: Any) -> float:
    """Of forward and backward over unpadded tokens: three times the forward's products."""
    tokens, width = lengths.astype(float), config.hidden_size
    linear = 2 * tokens * (4 * width**2 + 2 * width * config.intermediate_size)
    content = 4 * tokens**2 * width
    positions = 4 * tokens * np.minimum(2 * config.position_buckets, 2 * tokens) * width
    return float(3 * config.num_hidden_layers * (linear + content + positions).sum())


def matrix_rate(device: torch.device) -> float:
    """The best rate of a bf16 matrix product, in operations a second."""
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def measure(
    bench: Bench, batches: int, rounds: int = 1
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows, and what the choice of attention says of this card."""
    from transformers import AutoConfig, DebertaV2ForSequenceClassification

    precision = bench.precisions[0]
    probed = probe(ProbeSettings(bench.device, bench.model, TrainingSpec(precision=precision)))
    device = open_device(bench.device)
    device.use_allocator(probed.memory.allocator)
    device.set_cap(probed.cap_bytes)
    rate = matrix_rate(device.torch_device)
    config = _config(bench.model, AutoConfig)
    with device.use():
        training = Training(bench, device, precision, probed.limits, dropout=True)
        module = training.model.module
        offered = dict(candidates(training.model, bench.model))
        choice = choose(training.model, offered, length=bench.model.max_length, plain="rewrite")
    print(choice, flush=True)
    offered = {"reference": lambda: ReferenceForward(module), **offered}
    config.num_labels, config.problem_type = 1, "multi_label_classification"
    theirs = DebertaV2ForSequenceClassification(config)
    rows = []
    for mean in MEAN_LENGTHS:
        work = work_of(bench, mean, batches)
        sides: dict[str, Callable[[], Epoch]] = {
            name: partial(ours, work, training, make)
            for name, make in offered.items()
            if name not in choice.refused
        }
        if importlib.util.find_spec("accelerate"):
            sides |= {
                f"trainer_{micro}x{bench.batch // micro}": partial(
                    hugging_face, work, micro, theirs, bf16=precision == "bf16"
                )
                for micro in (bench.batch, bench.batch // 2, bench.batch // 4)
            }
        with device.use():
            rows += compared(work, sides, rounds, rate, config)
        del sides
        gc.collect()
        device.empty_cache()
    return [{**row, "vs_trainers_best": _ratio(rows, row)} for row in rows], asdict(choice)


def compared(
    work: Work, sides: dict[str, Callable[[], Epoch]], rounds: int, rate: float, config: Any
) -> list[dict[str, Any]]:
    """Each side once to warm up and compile, then all of them in turns."""
    epochs: dict[str, Epoch] = {}
    errors: dict[str, str] = {}
    for side, make in sides.items():
        try:
            epochs[side] = make()
            warm = epochs[side]()
            print(f"{work.mean} tokens, {side}: first epoch {warm:.2f} s", flush=True)
        except Exception as error:  # a side that cannot run must not cost the others
            epochs.pop(side, None)
            errors[side] = f"{type(error).__name__}: {error}"[:300]
    taken: dict[str, list[float]] = {side: [] for side in epochs}
    for _ in range(rounds):
        for side, epoch in epochs.items():
            gc.collect()
            taken[side].append(epoch())
    done = sum(operations(lengths, config) for lengths in work.batches)
    rows = []
    for side in sides:
        row: dict[str, Any] = {"mean_length": work.mean, "side": side, "seconds": None}
        if side in errors:
            row["error"] = errors[side]
        else:
            seconds = statistics.median(taken[side])
            row |= {
                "seconds": seconds,
                "spread": [min(taken[side]), max(taken[side])],
                "pairs_per_s": sum(map(len, work.batches)) / seconds,
                "tokens_per_s": work.tokens / seconds,
                "mfu": done / seconds / rate,
            }
        rows.append(row)
        print(row, flush=True)
    return rows


def _ratio(rows: list[dict[str, Any]], row: dict[str, Any]) -> float | None:
    """The Trainer's least seconds at that mean length over this side's: above 1 is faster."""
    theirs = [
        each["seconds"]
        for each in rows
        if each["side"].startswith("trainer") and each["mean_length"] == row["mean_length"]
    ]
    least = min((seconds for seconds in theirs if seconds), default=None)
    return least / row["seconds"] if least and row["seconds"] else None


def _config(model: ModelSpec, auto: Any) -> Any:
    return tiny.tiny_config() if model.name == tiny.NAME else auto.from_pretrained(model.name)


def cpu_bench() -> Bench:
    model = ModelSpec(name="builtin:tiny-deberta-v2", max_length=64)
    return Bench("cpu", model, ("fp32",), (), batch=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--quick", action="store_true", help="few batches, one round")
    parser.add_argument("--no-compile", action="store_true", help="leave out what is compiled")
    parser.add_argument("--json", type=Path, help="the file that keeps the parts of gpu_memory.py")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    card = card_or_exit(options.device)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        if options.device == "cpu":
            rows, choice = measure(cpu_bench(), 2)
        else:
            bench = bench_on(options.device, Path(folder) / "model")
            if options.no_compile:
                bench = replace(bench, model=bench.model.model_copy(update={"compile": False}))
            rows, choice = measure(bench, 4 if options.quick else 12, 1 if options.quick else 3)
    if options.json:
        keep(options.json, "attention", card, [choice])
        keep(options.json, "throughput", card, rows)


if __name__ == "__main__":
    main()
