"""How fast a trial trains and scores, beside other ways of doing the same; a CPU is enough.

    pip install -e '.[bench]'
    python benchmarks/throughput.py [--quick] [--json FILE] [--part compare|fixed|growth]
                                    [--rounds N] [--more]

Every side trains the same pairs of the same small DeBERTa-v2 for one epoch in batches of 32, then
scores others, in a process of its own with one thread and, but for `hf_as_shipped`, the same
allocator settings. Loading is not timed; the epoch is the process's first, for all alike. The sides
take turns, in another order each round. A ratio is the median over rounds of the other's time
divided by ours in the same round: above 1, ours is faster. `ratios` compares our defaults (bf16
where the processor has it) with the best of the Trainer in either precision, `ratios_fp32` both in
float32. What the sides do is in `throughput_sides.py`, what they read in `throughput_data.py`, the
fixed costs and growth in `throughput_costs.py`; equal results are shown by `equal.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import numpy as np
import throughput_costs as costs
import throughput_data as data
import torch

from criteria_cli.training.threads import environment

SIDES = (
    "ours", "ours_fp32", "predecessor", "hf_as_shipped", "hf_default", "hf_grouped_4x8",
    "hf_grouped_8x4", "hf_grouped_4x8_bf16", "hf_grouped_8x4_bf16", "cross_encoder", "lightning",
)  # fmt: skip
PARTS = ("compare", "fixed", "growth")
LIBRARIES = (
    "torch", "transformers", "accelerate", "sentence-transformers", "lightning", "tokenizers",
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


def compare(folder: Path, rounds: int, before: dict[str, Any]) -> dict[str, Any]:
    """What each side took in each round, after the rounds `before`, and the machine's matrix
    product rates."""
    names = possible()
    measured: dict[str, list[dict[str, Any]]] = before.get("rounds", {name: [] for name in names})
    rates = measure(names[0], folder, "peak")
    for kind, rate in before.get("peak_flops", {}).items():
        rates[kind] = max(rate, rates[kind])
    done = len(measured[names[0]])
    for number in range(done, done + rounds):
        random.Random(number).shuffle(names)
        for name in names:
            times = measure(name, folder, "go")
            measured[name].append(times)
            print(
                f"round {number + 1} {name:22s} train {times['train']['cpu_s']:7.2f} s "
                f"eval {times['eval']['cpu_s']:6.2f} s",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    return {"peak_flops": rates, "rounds": measured}


def measure(name: str, folder: Path, word: str) -> dict[str, Any]:
    """Ask a side in a new process: several of them together would not fit in memory."""
    side = Side(name, folder)
    try:
        side.wait()
        return side.ask(word)
    finally:
        side.close()


def rows_of(work: dict[str, tuple[int, float]], found: dict[str, Any]) -> list[dict[str, Any]]:
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
    parser.add_argument("--rounds", type=int, help="of the comparison; 3 when quick, else 5")
    parser.add_argument(
        "--part", action="append", choices=PARTS,
        help="only this; the others stay in FILE as they are",
    )  # fmt: skip
    parser.add_argument(
        "--more", action="store_true", help="compare in further rounds than those in FILE"
    )
    options = parser.parse_args()
    parts = options.part or PARTS

    def keep() -> None:
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")

    result: dict[str, Any] = {}
    if (options.part or options.more) and options.json and options.json.exists():
        result = json.loads(options.json.read_text())
    result["schema"] = "criteria.throughput/1"
    with tempfile.TemporaryDirectory(prefix="throughput-") as name:
        folder = Path(name)
        train_posts, eval_posts = (10, 5) if options.quick else (20, 10)
        data.write(folder, train_posts, eval_posts)
        if "compare" in parts:
            before = result if options.more else {}
            result |= comparison(folder, options.rounds or (3 if options.quick else 5), before)
            keep()
        if "fixed" in parts:
            result["fixed"] = costs.fixed(folder)
            keep()
        if "growth" in parts:
            sizes = (costs.PLANNED[:1], costs.TRAINED[:1])
            if not options.quick:
                sizes = (costs.PLANNED, costs.TRAINED)
            result["growth"] = costs.growth(folder, *sizes)
    if "rows" in result:
        print(table(result["rows"]))
    shown = ("ratios", "ratios_fp32", "fixed", "growth")
    print(json.dumps({key: result[key] for key in shown if key in result}, indent=1))
    keep()


def comparison(folder: Path, rounds: int, before: dict[str, Any]) -> dict[str, Any]:
    """The sides beside each other, with what they ran on."""
    found = compare(folder, rounds, before)
    work = work_of(folder)
    return {
        "machine": {
            "processor": str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine()),
            "cores": len(os.sched_getaffinity(0)),
            "load_at_end": os.getloadavg()[0],
            "gpu": "not run on a GPU",
            "versions": {name: version(name) for name in LIBRARIES},
        },
        "sample": {
            "train_pairs": work["train"][0],
            "eval_pairs": work["eval"][0],
            "rounds": len(found["rounds"]["ours"]),
        },
        "peak_flops": found["peak_flops"],
        "rows": rows_of(work, found),
        "ratios": ratios_of(found["rounds"], "ours"),
        "ratios_fp32": ratios_of(found["rounds"], "ours_fp32"),
        "rounds": found["rounds"],
    }


if __name__ == "__main__":
    main()
