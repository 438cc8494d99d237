"""How fast a trial trains and scores, beside other ways of doing the same; a CPU is enough.

    pip install -e '.[bench]'
    python benchmarks/throughput.py [--quick] [--json FILE]

Every side trains the same pairs of the same small DeBERTa-v2 for one epoch in batches of 32, then
scores others, in a process of its own with one thread and, but for `hf_as_shipped`, the same
allocator settings. The sides take turns, in another order each round. A ratio is the median over
rounds of the other's time divided by ours in the same round: above 1, ours is faster. Also: equal
results, fixed costs between folds and trials, growth with the number of pairs. What the sides do is
in `throughput_sides.py`, what they read in `throughput_data.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import numpy as np
import throughput_data as data

from criteria_cli.training.threads import environment

SIDES = (
    "ours", "ours_fp32", "predecessor", "hf_as_shipped", "hf_default", "hf_grouped_4x8",
    "hf_grouped_8x4", "hf_grouped_4x8_bf16", "hf_grouped_8x4_bf16", "cross_encoder", "lightning",
)  # fmt: skip
NEEDS = {
    "hf": ("accelerate", "datasets", "pandas"),
    "cross": ("sentence_transformers", "datasets", "pandas"),
    "lightning": ("lightning", "datasets", "pandas"),
    "predecessor": ("pandas",),
}


class Side:
    """A side's process, idle until it is told to run."""

    def __init__(self, name: str, folder: Path) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)  # libraries this large are compiled once
        variables = environment(1)
        if name == "hf_as_shipped":
            variables = {k: v for k, v in variables.items() if not k.startswith("MALLOC_")}
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "throughput_sides.py"), name, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kept | variables,
        )  # fmt: skip

    def wait(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "ready", f"{self.name} did not start"

    def ask(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended")
        return dict(json.loads(answer))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def possible() -> list[str]:
    """Sides whose libraries are here; the others are named."""
    found = []
    for name in SIDES:
        needed = next((libs for key, libs in NEEDS.items() if name.startswith(key)), ())
        missing = [lib for lib in needed if importlib.util.find_spec(lib) is None]
        if missing:
            print(f"{name}: left out, {', '.join(missing)} not installed", file=sys.stderr)
        else:
            found.append(name)
    return found


def compare(folder: Path, rounds: int) -> dict[str, Any]:
    """Rows, ratios and the machine's matrix product rates."""
    sides = [Side(name, folder) for name in possible()]
    for side in sides:
        side.wait()
    measured: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    rates = sides[0].ask("peak")
    order = random.Random(0)
    for number in range(rounds):
        order.shuffle(sides)
        for side in sides:
            measured[side.name].append(side.ask("go"))
            times = measured[side.name][-1]
            print(
                f"round {number + 1} {side.name:22s} train {times['train']['cpu_s']:7.2f} s "
                f"eval {times['eval']['cpu_s']:6.2f} s",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    for side in sides:
        side.close()
    return {"peak_flops": rates, "rounds": measured}


def rows_of(folder: Path, found: dict[str, Any]) -> list[dict[str, Any]]:
    work = work_of(folder)
    rows = []
    for name, rounds in found["rounds"].items():
        row: dict[str, Any] = {"side": name}
        for phase, passes in (("train", 3), ("eval", 1)):
            for clock in ("cpu_s", "wall_s"):
                row[f"{phase}_{clock}"] = statistics.median(r[phase][clock] for r in rounds)
            pairs, flops = work[phase]
            kind = "bf16" if name.endswith("bf16") or name == "ours" else "fp32"
            seconds = row[f"{phase}_cpu_s"]
            row[f"{phase}_pairs_per_cpu_s"] = pairs / seconds
            row[f"{phase}_share_of_peak"] = passes * flops / seconds / found["peak_flops"][kind]
        rows.append(row)
    return rows


def work_of(folder: Path) -> dict[str, tuple[int, float]]:
    """Pairs and operations of a forward pass over them, without padding, of each part."""
    import csv

    from transformers import AutoTokenizer

    from criteria_cli.data.criteria import load_criteria

    tokenizer = AutoTokenizer.from_pretrained(folder / "small")
    criteria = {c.id: c.text for c in load_criteria("dsm5-mdd", folder)}
    held = set(json.loads((folder / "split.json").read_text())["eval"])
    tokens: dict[str, list[int]] = {"train": [], "eval": []}
    with (folder / "pairs.csv").open() as file:
        for row in csv.DictReader(file):
            ids = tokenizer(
                row["post"], criteria[row["DSM5_symptom"]], truncation="only_first", max_length=512
            )["input_ids"]
            tokens["eval" if row["post_id"] in held else "train"].append(len(ids))
    return {part: (len(n), data.flops(np.array(n), "small")) for part, n in tokens.items()}


def ratios_of(rounds: dict[str, list[dict[str, Any]]], ours: str) -> dict[str, Any]:
    """Other over ours, by round; the best of Hugging Face is the one with the least CPU time."""
    best = {
        phase: min(
            (name for name in rounds if name.startswith("hf_grouped")
             and (ours == "ours" or not name.endswith("bf16"))),
            key=lambda name: statistics.median(r[phase]["cpu_s"] for r in rounds[name]),
            default="",
        )
        for phase in ("train", "eval")
    }  # fmt: skip
    wanted = {
        "train_vs_hf_as_shipped": ("train", "hf_as_shipped"),
        "train_vs_hf_default": ("train", "hf_default"),
        "train_vs_hf_best": ("train", best["train"]),
        "train_vs_predecessor": ("train", "predecessor"),
        "eval_vs_hf_best": ("eval", best["eval"]),
        "train_vs_crossencoder": ("train", "cross_encoder"),
        "train_vs_lightning": ("train", "lightning"),
    }
    found = {}
    for key, (phase, other) in wanted.items():
        if other not in rounds:
            found[key] = None
            continue
        found[key] = {
            "other": other,
            **{
                clock: statistics.median(
                    theirs[phase][f"{clock}_s"] / mine[phase][f"{clock}_s"]
                    for theirs, mine in zip(rounds[other], rounds[ours], strict=True)
                )
                for clock in ("cpu", "wall")
            },
        }
    return found


def growth(sizes: tuple[int, ...], folder: Path) -> list[dict[str, Any]]:
    """Seconds and peak memory of tokenising and of planning an epoch, each size in a process."""
    found = []
    for pairs in sizes:
        done = subprocess.run(
            [sys.executable, __file__, "--grow", str(pairs), str(folder)],
            capture_output=True, text=True, check=True, env={**os.environ, **environment(1)},
        )  # fmt: skip
        found.append(json.loads(done.stdout))
        print(f"growth {found[-1]}", file=sys.stderr, flush=True)
    return found


def grow(pairs: int, folder: Path) -> dict[str, Any]:
    from transformers import AutoTokenizer

    from criteria_cli.training.batches import Planner
    from criteria_cli.training.memory import assumed_limits
    from criteria_cli.training.sampling import epoch_pairs
    from criteria_cli.training.tokens import PairTemplate, PairTokens, cached_tokens

    number = -(-pairs // 9)
    rng = np.random.default_rng(3)
    base = data.texts(rng, data.lengths(rng, min(number, 1512)))
    posts = [f"{base[i % len(base)]} {i}" for i in range(number)]  # each its own text
    tokenizer = AutoTokenizer.from_pretrained(folder / "small")
    criteria = data.texts(rng, np.array([14, 17, 18, 20, 21, 23, 25, 28, 33]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        tokens = PairTokens(
            cached_tokens(tokenizer, posts, Path(cache)),
            cached_tokens(tokenizer, criteria, Path(cache)),
            PairTemplate.of(tokenizer),
            512,
        )
        tokenised = time.perf_counter()
        index = np.arange(pairs)
        order = epoch_pairs(index, (index % 9 == 0).astype(np.int8), None, (1, 1, 1))
        config = SmallShape()
        planner = Planner(assumed_limits(config, 10**6, 512, total_bytes=2**34, free_bytes=2**34))
        sizes = tokens.lengths(order // 9, order % 9)
        for start in range(0, len(order), 32):
            planner.plan(sizes[start : start + 32])
        planned = time.perf_counter()
        planner.plan_evaluation(sizes)
        sorted_for_evaluation = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "pairs": pairs,
        "posts": number,
        "tokenise_s": tokenised - started,
        "plan_epoch_s": planned - tokenised,
        "plan_evaluation_s": sorted_for_evaluation - planned,
        "peak_bytes": peak * 1024,
        "peak_above_texts_bytes": (peak - before) * 1024,
    }


class SmallShape:
    """The sizes of the small model, for planning without it."""

    hidden_size = 128
    num_hidden_layers = 4
    num_attention_heads = 4


def fixed(folder: Path) -> dict[str, Any]:
    """What lies between folds and trials for a model of DeBERTa-v3-base's size, in seconds."""
    done = subprocess.run(
        [sys.executable, __file__, "--fixed", str(folder)],
        capture_output=True, text=True, check=True, env={**os.environ, **environment(1)},
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def fixed_costs(folder: Path) -> dict[str, Any]:
    from transformers import AutoModelForSequenceClassification

    from criteria_cli.study.messages import TrainerSetup
    from criteria_cli.study.spec import StudySpec
    from criteria_cli.training.trainer import Trainer

    checkpoint = folder / "base"
    if not checkpoint.exists():
        data.checkpoint(checkpoint, "base", data.sample(30))
    spec = StudySpec.model_validate(
        {
            "schema": 1,
            "name": "fixed",
            "data": {"format": "pairs", "path": "pairs.csv"},
            "model": {"name": str(checkpoint), "max_length": 512},
            "validation": {"folds": 2},
            "training": {"precision": "fp32"},
        }
    )
    started = time.perf_counter()
    trainer = Trainer(TrainerSetup(spec, folder, folder / "runs-fixed", "cpu", 1))
    ready = time.perf_counter()
    model, settings = trainer.model(spec.model), spec.hyperparameters()

    def seconds(work: Any, times: int = 5) -> dict[str, float]:
        found = []
        for _ in range(times):
            cpu, wall = time.process_time(), time.perf_counter()
            work()
            found.append((time.process_time() - cpu, time.perf_counter() - wall))
        return {
            "cpu_s": statistics.median(cpu for cpu, _ in found),
            "wall_s": statistics.median(wall for _, wall in found),
        }

    def reload() -> None:
        again = AutoModelForSequenceClassification.from_pretrained(checkpoint)
        for parameter in again.parameters():
            parameter.data.mul_(1.0)  # a mapped file is read when it is first written to

    model.begin(settings)
    return {
        "parameters": sum(parameter.numel() for parameter in model.module.parameters()),
        "start_to_ready_s": ready - started,
        "next_fold": seconds(lambda: model.begin(settings)),
        "keep_best": seconds(model.keep_best),
        "reload_instead": seconds(reload, 3),
    }


def table(rows: list[dict[str, Any]]) -> str:
    head = f"{'side':22s} {'train CPU s':>11s} {'pairs/s':>8s} {'of peak':>8s} "
    lines = [head + f"{'eval CPU s':>10s} {'pairs/s':>8s} {'of peak':>8s}"]
    lines += [
        f"{row['side']:22s} {row['train_cpu_s']:11.2f} {row['train_pairs_per_cpu_s']:8.1f} "
        f"{row['train_share_of_peak']:8.1%} {row['eval_cpu_s']:10.2f} "
        f"{row['eval_pairs_per_cpu_s']:8.1f} {row['eval_share_of_peak']:8.1%}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="under fifteen minutes on two cores")
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    parser.add_argument("--grow", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--fixed", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.grow:
        print(json.dumps(grow(int(options.grow[0]), Path(options.grow[1]))))
        return
    if options.fixed:
        print(json.dumps(fixed_costs(Path(options.fixed))))
        return
    train_posts, eval_posts, rounds = (10, 5, 3) if options.quick else (20, 10, 5)
    sizes = (13_000,) if options.quick else (13_000, 130_000, 1_300_000)
    with tempfile.TemporaryDirectory(prefix="throughput-") as name:
        folder = Path(name)
        data.write(folder, train_posts, eval_posts)
        found = compare(folder, rounds)
        result = {
            "schema": "criteria.throughput/1",
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "load_at_end": os.getloadavg()[0],
                "gpu": "not run on a GPU",
            },
            "peak_flops": found["peak_flops"],
            "rows": rows_of(folder, found),
            "ratios": ratios_of(found["rounds"], "ours"),
            "ratios_fp32": ratios_of(found["rounds"], "ours_fp32"),
            "growth": growth(sizes, folder),
            "fixed": None if options.quick else fixed(folder),
            "rounds": found["rounds"],
        }
    print(table(result["rows"]))
    print(json.dumps({key: result[key] for key in ("ratios", "ratios_fp32")}, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
