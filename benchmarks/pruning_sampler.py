"""Pruning where the sampler learns: which trials arrive depends on which were stopped.

    python benchmarks/pruning_sampler.py --json benchmarks/results/pruning_sampler.json

`benchmarks/pruning.py` gives every policy the same trials. Here Optuna's TPE draws six parameters,
and the simulated scores are a function of them: a bowl in all six for the quality, the first two
also for how fast a trial rises. Columns are those of `pruning.py`, `tried` is how far the best
configuration that was drawn lies below the best there is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from pruning import POLICIES, interval, picked
from pruning_policies import Played, Policy, Racing, running_estimates
from pruning_worlds import Floats, World

WORLD = World()
BEST = 0.66
BOWL = np.array([1.0, 0.6, 0.3, 0.15, 0.1, 0.05])
CENTRE = np.array([0.6, 0.4, 0.5, 0.3, 0.7, 0.5])
COMPARED = ("none", "spec", "hyperband", "hyperband + patience", "racing")


def scores_of(values: Floats, fold: Floats, rng: np.random.Generator) -> tuple[Floats, float]:
    """Scores (folds, epochs) of a configuration, and its true quality."""
    quality = BEST - 0.35 * float(BOWL @ (values - CENTRE) ** 2)
    speed = WORLD.speed * np.exp(1.2 * (values[0] - 0.5) + 0.3 * (values[1] - 0.5))
    level = quality + fold + WORLD.fold_noise * rng.standard_normal(len(fold))
    rise = 1 - np.exp(-speed * np.arange(1, WORLD.epochs + 1))
    noise = WORLD.epoch_noise * rng.standard_normal((len(fold), WORLD.epochs))
    scores = WORLD.base + (level[:, None] - WORLD.base) * rise + noise
    return np.asarray(np.clip(scores, 0.0, 1.0)), quality


def run(policy: Policy, trials: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    fold = WORLD.fold_effect * rng.standard_normal(WORLD.folds)
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    played = Played(np.zeros((trials, WORLD.folds, WORLD.epochs)))
    quality = np.zeros(trials)
    for number in range(trials):
        trial = study.ask()
        values = np.array([trial.suggest_float(f"x{at}", 0.0, 1.0) for at in range(len(BOWL))])
        played.epochs[number], quality[number] = scores_of(values, fold, rng)
        played.results[number] = played.epochs[number].max(axis=1)
        if isinstance(policy, Racing):
            policy.curves = None  # the table has grown
        ran = policy(played, number)
        whole = ran == played.whole
        played.end(number, min(ran, played.whole), complete=whole)
        # As criteria reports: racing its epochs, the others their folds.
        step = 1 if isinstance(policy, Racing) else WORLD.epochs
        estimates = running_estimates(played.epochs[number])
        for at in range(step, int(played.run[number]) + 1, step):
            trial.report(float(estimates[at - 1]), at // step)
        state = None if whole else optuna.trial.TrialState.PRUNED
        study.tell(trial, float(played.results[number].mean()) if whole else None, state)
    return {
        "cost": float(played.run.mean()) / played.whole,
        "regret": BEST - float(quality[picked(played)]),
        "tried": BEST - float(quality.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows: dict[str, dict[str, Any]] = {}
    for name in COMPARED:
        found = [
            run(POLICIES[name](WORLD.folds), arguments.trials, seed)
            for seed in range(arguments.seeds)
        ]
        row: dict[str, Any] = {"studies": len(found)}
        for key in ("cost", "regret", "tried"):
            row[key], row[f"{key}_interval"] = interval(np.array([one[key] for one in found]))
        rows[name] = row
        print(f"{name:24s} cost {row['cost']:.3f}  regret {row['regret']:.4f} "
              f"{row['regret_interval']}  tried {row['tried']:.4f}", flush=True)  # fmt: skip
    document = {
        "schema": "criteria.benchmark.pruning_sampler/1",
        "trials": arguments.trials,
        "policies": rows,
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
