"""That a batch's gradient does not depend on the card, printed as numbers.

    python benchmarks/exactness.py [--json FILE]

1. Gradients in float64 of one batch of 64 pairs, split in several ways, against the whole batch's:
   the largest relative difference, for ours and for the usual way, the mean of each micro-batch
   divided by their number.
2. A batch of three micro-batches that runs out of memory once: in every module, forward and
   backward, in each micro-batch. Final parameters against those of the undisturbed run, float64.
3. One trial on simulated cards of 8 and 48 GiB: optimiser steps, learning rates, parameters.

What is measured is what the tests hold (`tests/training/test_exactness.py`, `test_replay.py`,
`test_cards.py`). A small DeBERTa-v2 and a CPU; no GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import card_trials
import interrupted_batches as interrupted
import numpy as np
import split_batches as split
import torch


def gradients() -> list[dict[str, Any]]:
    """Relative differences from the whole batch's gradient, by attention, loss and split."""
    rows = []
    batch = split.Batch()
    for attention in ("auto", "reference"):
        model = split.resident(attention)
        for name, training in split.LOSSES.items():
            step, loss = split.step_of(model, training), split.loss_of(training)
            whole = split.gradient_of(
                step, loss, batch, split.runs(np.arange(len(batch)), [len(batch)])
            )
            for kind, plan in split.splits(batch).items():
                ours = split.gradient_of(step, loss, batch, plan)
                usual = split.mean_of_means(step, loss, batch, plan)
                rows.append(
                    {
                        "attention": attention,
                        "loss": name,
                        "split": kind,
                        "micro_batches": [len(part) for part in plan],
                        "difference": split.difference(ours, whole),
                        "difference_of_mean_over_steps": split.difference(usual, whole),
                    }
                )
    return rows


def replays() -> dict[str, Any]:
    """Every module, forward and backward, in each micro-batch."""
    setting = interrupted.Setting(rows=3)
    leaves = interrupted.leaves(setting)
    setting.anew()
    undisturbed = setting.run()
    found = [
        interrupted.difference(
            interrupted.interrupted(setting, leaf, direction, micro_batch), undisturbed
        )
        for leaf in leaves
        for direction in ("forward", "backward")
        for micro_batch in range(1, interrupted.MICRO_BATCHES + 1)
    ]
    return {"modules": len(leaves), "errors": len(found), "largest_difference": max(found)}


def cards() -> dict[str, Any]:
    """The same trial where a batch is split and where it is not."""
    spec = card_trials.study()
    sides = {}
    for name in (card_trials.SMALL, card_trials.LARGE):
        sides[name] = card_trials.train(spec, name, card_trials.measured(spec, name))
    small, large = sides.values()
    return {
        "cards": [
            {
                "card": name,
                "largest_micro_batch": side.limit,
                "optimizer_steps": len(side.rates),
                "micro_batches": sum(len(step) for step in side.sizes),
                "out_of_memory": side.ooms,
            }
            for name, side in sides.items()
        ],
        "batch_size": card_trials.BATCH,
        "equal_learning_rates": small.rates == large.rates,
        "parameters_difference": card_trials.difference(small.parameters, large.parameters),
        "precision": "float32, dropout 0",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # each replay collects garbage: only what it leaves need be looked at
    rows = gradients()
    print(f"{'attention':10s} {'loss':9s} {'split':14s} {'ours':>9s} {'mean / steps':>13s}")
    for row in rows:
        print(
            f"{row['attention']:10s} {row['loss']:9s} {row['split']:14s} {row['difference']:9.1e} "
            f"{row['difference_of_mean_over_steps']:13.3f}"
        )
    result: dict[str, Any] = {
        "schema": "criteria.benchmark.exactness/1",
        "device": "CPU; not run on a GPU",
        "gradients": {
            "precision": "float64",
            "largest_difference": max(row["difference"] for row in rows),
            "largest_of_mean_over_steps": max(row["difference_of_mean_over_steps"] for row in rows),
            "rows": rows,
        },
    }
    result["replay"] = replays()
    print(json.dumps(result["replay"]), flush=True)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # a memory model made here is of no use to the user
        result["cards"] = cards()
    print(json.dumps(result["cards"], indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
