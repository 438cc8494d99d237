"""What pruning costs and what it loses, on simulated and on recorded studies.

    python benchmarks/pruning.py --quick
    python benchmarks/pruning.py --json benchmarks/results/pruning.json

Every policy plays the same studies. `cost` is the epochs run as a share of all epochs; `regret` the
true mean of the best configuration less that of the trial picked, in F1; `regret_more` the same
less the regret of running everything, study by study; `time` the share of all epochs spent when the
incumbent was first within 0.005 of the best, 1 where it never was, and `reached` how often it was.
The best of the recorded configurations are as good as each other as far as their repeats can tell
(`recorded_truth`: the noise of one run, the spread of true means), so their regret is also measured
in the scores of the study itself, as `recorded_by_score`: there no pruning loses nothing. Each
comes with a 95 % interval over studies.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pruning_policies import (
    Hyperband,
    OptunaSuccessiveHalving,
    Played,
    Policy,
    Racing,
    RayAsha,
    at_folds,
    both,
    confirm,
    incumbent_patience,
    none,
    optuna_median,
    optuna_wilcoxon,
    own_patience,
    play,
    spec_exactly,
)
from pruning_worlds import WORLDS, Floats, recorded, recorded_truth, simulate

POLICIES: dict[str, Callable[[int], Policy]] = {
    "none": lambda _: none,
    "spec": spec_exactly,
    "hyperband": lambda folds: at_folds(Hyperband(folds)),
    "hyperband + own patience": lambda folds: at_folds(both(Hyperband(folds), own_patience)),
    "hyperband + patience": lambda folds: at_folds(
        both(Hyperband(folds), incumbent_patience(margin=1.0))
    ),
    "hyperband + patience, no margin": lambda folds: at_folds(
        both(Hyperband(folds), incumbent_patience(margin=0.0))
    ),
    "optuna median": lambda _: at_folds(optuna_median(), startup=0),
    "optuna successive halving": lambda _: at_folds(OptunaSuccessiveHalving(), startup=0),
    "optuna wilcoxon": lambda _: at_folds(optuna_wilcoxon(), startup=0),
    "ray asha": lambda _: RayAsha(),
    "racing, folds only": lambda _: Racing(epochs=False),
    "racing": lambda _: Racing(),
    "racing, 3 startup trials": lambda _: Racing(startup=3),
    "racing + hyperband": lambda folds: Racing(hyperband=Hyperband(folds)),
}
CONFIRMED = 3
CLOSE = 0.005
FULL = {50: 30, 200: 30, 1000: 30, 2000: 10}
QUICK = {50: 3, 200: 2, 1000: 1}
"""Studies of each world by their number of trials."""
HEADLINE = 1000


def measure(played: Played, true: Floats) -> dict[str, float]:
    """Cost, regret and time of one study."""
    whole = played.epochs.size
    best = float(true.max())
    close = [spent for trial, spent in played.picks if true[trial] >= best - CLOSE]
    return {
        "cost": float(played.run.sum()) / whole,
        "regret": best - float(true[picked(played)]),
        "time": close[0] / whole if close else 1.0,
        "reached": float(bool(close)),
    }


def picked(played: Played) -> int:
    """The incumbent; where no trial is complete, the best of those that ran longest."""
    if played.picks:
        return played.picks[-1][0]
    longest = played.run == played.run.max()
    means = np.nanmean(np.where(longest[:, None], played.folds, -1.0), axis=1)
    return int(np.argmax(means))


def compare(studies: Iterable[tuple[Floats, Floats]]) -> dict[str, list[dict[str, float]]]:
    """What each policy measured in each study."""
    found: dict[str, list[dict[str, float]]] = {}
    for epochs, true in studies:
        for name, make in POLICIES.items():
            played = play(epochs, make(epochs.shape[1]))
            found.setdefault(name, []).append(measure(played, true))
            if name == "racing":
                confirm(played, CONFIRMED)
                found.setdefault(f"racing, {CONFIRMED} confirmed", []).append(measure(played, true))
    return found


def summarise(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Means and intervals over studies."""
    base = np.array([study["regret"] for study in found["none"]])
    rows: dict[str, dict[str, Any]] = {}
    for name, studies in found.items():
        row: dict[str, Any] = {}
        for key in ("cost", "regret", "time", "reached"):
            values = np.array([study[key] for study in studies])
            row[key], row[f"{key}_interval"] = interval(values)
            if key == "regret":
                row["regret_more"], row["regret_more_interval"] = interval(values - base)
        rows[name] = {**row, "studies": len(studies)}
    return rows


def interval(values: Floats) -> tuple[float, list[float]]:
    mean = float(values.mean())
    half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return round(mean, 5), [round(mean - half, 5), round(mean + half, 5)]


def simulated_studies(trials: int, seeds: int) -> Iterator[tuple[Floats, Floats]]:
    for world in WORLDS.values():
        for seed in range(seeds):
            yield simulate(world, trials, np.random.default_rng([seed, trials]))


def recorded_studies(seeds: int, *, by_score: bool = False) -> Iterator[tuple[Floats, Floats]]:
    """The recorded configurations in random order.

    Args:
        by_score: take a configuration's own mean in the study for its true one.
    """
    scores, true = recorded()
    if by_score:
        true = scores.max(axis=2).mean(axis=1)
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(scores))
        yield scores[order], true[order]


def show(title: str, rows: dict[str, dict[str, Any]]) -> None:
    print(f"\n{title}")
    print(f"{'policy':32s}  cost           regret         more than none       time   reached")
    for name, row in rows.items():
        low, high = row["regret_more_interval"]
        print(
            f"{name:32s}  {row['cost']:.3f} ±{_half(row, 'cost'):.3f}   "
            f"{row['regret']:.4f} ±{_half(row, 'regret'):.4f}"
            f"  {row['regret_more']:+.4f} [{low:+.4f}, {high:+.4f}]"
            f"   {row['time']:.3f}  {row['reached']:.2f}",
            flush=True,
        )


def _half(row: dict[str, Any], key: str) -> float:
    low, high = row[f"{key}_interval"]
    return float(high - low) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer seeds, under five minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    arguments = parser.parse_args()
    started = time.monotonic()
    seeds = QUICK if arguments.quick else FULL
    replays = 5 if arguments.quick else 40
    on_record = summarise(compare(recorded_studies(replays)))
    show(f"recorded, {len(recorded()[1])} configurations, {replays} orders", on_record)
    by_score = summarise(compare(recorded_studies(replays, by_score=True)))
    show("recorded, regret in the scores of the study itself", by_score)
    truth = recorded_truth()
    by_trials: dict[str, Any] = {}
    for trials, count in seeds.items():
        by_trials[str(trials)] = summarise(compare(simulated_studies(trials, count)))
        show(f"simulated, {trials} trials, {count} seeds in each world", by_trials[str(trials)])
    document = {
        "schema": "criteria.benchmark.pruning/1",
        "quick": arguments.quick,
        "seconds": round(time.monotonic() - started, 1),
        "simulated": by_trials[str(HEADLINE)],
        "recorded": on_record,
        "recorded_by_score": by_score,
        "recorded_truth": {"noise": truth.noise, "spread": truth.spread},
        "simulated_by_trials": by_trials,
        "worlds": {name: asdict(world) for name, world in WORLDS.items()},
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
