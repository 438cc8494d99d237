"""What `throughput.py` measures beside an epoch: fixed costs, and growth with the number of pairs.

Each measurement is a process of its own: `throughput_costs.py grow PAIRS FOLDER`, `ready PAIRS
FOLDER` or `fixed FOLDER`, which prints its result as JSON.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import numpy as np
import throughput_data as data

from criteria_cli.training.threads import environment

PLANNED = (13_000, 130_000, 1_300_000)
"""Pairs of which tokenising and planning are timed."""
TRAINED = (13_000, 130_000)
"""Pairs with which a trainer is made ready and trains its first batches."""
FIRST_BATCHES = 8


def growth(folder: Path, planned: tuple[int, ...], trained: tuple[int, ...]) -> dict[str, Any]:
    """Seconds and peak memory by number of pairs."""
    return {
        "plan": [_in_process("grow", str(pairs), str(folder)) for pairs in planned],
        "train": [_in_process("ready", str(pairs), str(folder)) for pairs in trained],
    }


def fixed(folder: Path) -> dict[str, Any]:
    """Seconds between folds and trials for a model of DeBERTa-v3-base's size."""
    if not (folder / "base").exists():
        data.checkpoint(folder / "base", "base", data.sample(30))
    _short_posts(folder)
    return _in_process("fixed", str(folder), str(time.monotonic()))


def _in_process(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environment(1)},
    )  # fmt: skip
    found = dict(json.loads(done.stdout.splitlines()[-1]))
    print(f"{arguments[0]} {found}", file=sys.stderr, flush=True)
    return found


# -- growth ----------------------------------------------------------------------------------------


def plan_only(pairs: int, folder: Path) -> dict[str, Any]:
    """Tokenise posts at ReDSM5's lengths, then plan every batch of 32 of an epoch."""
    from transformers import AutoTokenizer

    from criteria_cli.training.assumed import assumed_limits
    from criteria_cli.training.batches import Planner
    from criteria_cli.training.sampling import epoch_pairs
    from criteria_cli.training.token_pairs import PairTemplate, PairTokens
    from criteria_cli.training.tokens import cached_tokens

    number = -(-pairs // 9)
    rng = np.random.default_rng(3)
    base = data.texts(rng, data.lengths(rng, min(number, 1512)))
    posts = [f"{base[i % len(base)]} {i}" for i in range(number)]  # each its own text
    tokenizer = AutoTokenizer.from_pretrained(folder / "small")
    criteria = data.texts(rng, np.array([14, 17, 18, 20, 21, 23, 25, 28, 33]))
    before = _peak_bytes()
    with tempfile.TemporaryDirectory() as cache:
        started = time.process_time()
        tokens = PairTokens(
            cached_tokens(tokenizer, posts, Path(cache)),
            cached_tokens(tokenizer, criteria, Path(cache)),
            PairTemplate.of(tokenizer),
            512,
        )
        tokenised = time.process_time()
        cached_tokens(tokenizer, posts, Path(cache))
        found_again = time.process_time()
        index = np.arange(pairs)
        order = epoch_pairs(index, (index % 9 == 0).astype(np.int8), None, (1, 1, 1))
        limits = assumed_limits(SmallShape, 10**6, 512, total_bytes=2**34, free_bytes=2**34)
        planner = Planner(limits)
        sizes = tokens.lengths(order // 9, order % 9)
        for start in range(0, len(order), 32):
            planner.plan(sizes[start : start + 32])
        planned = time.process_time()
        planner.plan_evaluation(sizes)
        sorted_for_evaluation = time.process_time()
    return {
        "pairs": pairs,
        "posts": number,
        "tokenise_cpu_s": tokenised - started,
        "open_cache_cpu_s": found_again - tokenised,
        "plan_epoch_cpu_s": planned - found_again,
        "plan_evaluation_cpu_s": sorted_for_evaluation - planned,
        "peak_bytes": _peak_bytes(),
        "texts_and_libraries_bytes": before,
    }


class SmallShape:
    """The sizes of the small model, for planning without it."""

    hidden_size = 128
    num_hidden_layers = 4
    num_attention_heads = 4


def made_ready(pairs: int, folder: Path) -> dict[str, Any]:
    """A trainer on the synthetic corpus, from nothing to its first batches."""
    from criteria_cli.study.messages import TrainerSetup
    from criteria_cli.study.spec import StudySpec
    from criteria_cli.study.trial import Verdict
    from criteria_cli.training.trainer import Trainer

    spec = StudySpec.model_validate(
        {
            "schema": 1,
            "name": "growth",
            "data": {"format": "synthetic", "posts": -(-pairs // 9)},
            "model": {"name": str(folder / "small"), "max_length": 512},
            "training": {"epochs": 1, "batch_size": 32, "precision": "fp32"},
        }
    )
    with tempfile.TemporaryDirectory() as runs:
        started = time.process_time()
        trainer = Trainer(TrainerSetup(spec, folder, Path(runs), "cpu", 1))
        ready = time.process_time()
        trainer.fit(
            spec.hyperparameters(),
            trainer.folds[0].train[: FIRST_BATCHES * 32],
            np.zeros(0, dtype=np.int64),
            fold=1,
            seed=1,
            report=lambda _: Verdict.CONTINUE,
        )
        trained = time.process_time()
    return {
        "pairs": len(trainer.corpus),
        "ready_cpu_s": ready - started,
        "first_batches": FIRST_BATCHES,
        "first_batches_cpu_s": trained - ready,
        "peak_bytes": _peak_bytes(),
    }


def _peak_bytes() -> int:
    # not `ru_maxrss`, which a process inherits from the one that started it
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])


# -- fixed costs -----------------------------------------------------------------------------------


def _short_posts(folder: Path) -> None:
    """A study of two short posts a batch, so that steps take seconds and not minutes."""
    (folder / "one.json").write_text(
        json.dumps({"criteria": [{"id": "A.1", "name": "MOOD", "text": "Low mood every day."}]})
    )
    with (folder / "short.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["post_id", "post", "DSM5_symptom", "groundtruth"])
        texts = data.texts(np.random.default_rng(5), np.full(12, 8))
        table.writerows((f"p{n}", text, "A.1", n % 2) for n, text in enumerate(texts))


class Marks:
    """Moments of a trial, by wall and processor clock, as it passes them."""

    def __init__(self) -> None:
        self.passed: list[tuple[str, float, float]] = []

    def __call__(self, name: str) -> None:
        self.passed.append((name, time.monotonic(), time.process_time()))

    def between(self, first: str, then: str) -> Iterator[dict[str, float]]:
        """What lay between each `first` and the `then` that follows it directly."""
        for (a, wall, cpu), (b, wall_then, cpu_then) in zip(
            self.passed, self.passed[1:], strict=False
        ):
            if (a, b) == (first, then):
                yield {"wall_s": wall_then - wall, "cpu_s": cpu_then - cpu}


@contextmanager
def first_steps(mark: Marks) -> Iterator[None]:
    """Mark each fold's first step when its first micro-batch is on the device."""
    from criteria_cli.training import step

    accumulate = step.TrainingStep.accumulate
    begun: list[Any] = [None]

    def marked(self: Any, *arguments: Any) -> Any:
        if begun[0] is not self:  # a fold makes one of its own
            begun[0] = self
            mark("first step")
        return accumulate(self, *arguments)

    step.TrainingStep.accumulate = marked  # type: ignore[method-assign]
    try:
        yield
    finally:
        step.TrainingStep.accumulate = accumulate  # type: ignore[method-assign]


def fixed_costs(folder: Path, process_began: float) -> dict[str, Any]:
    from transformers import AutoModelForSequenceClassification

    from criteria_cli.study.messages import TrainerSetup
    from criteria_cli.study.spec import StudySpec
    from criteria_cli.study.trial import EpochReport, Event, TrialRun, Verdict
    from criteria_cli.training.trainer import Trainer

    spec = StudySpec.model_validate(
        {
            "schema": 1,
            "name": "fixed",
            "data": {"format": "pairs", "path": "short.csv", "criteria": "one.json"},
            "model": {"name": str(folder / "base"), "max_length": 64},
            "validation": {"folds": 3},
            "training": {"precision": "fp32", "epochs": 1, "batch_size": 2},
        }
    )
    mark = Marks()
    runs = folder / "runs-fixed"
    trainer = Trainer(TrainerSetup(spec, folder, runs, "cpu", 1))
    ready = {"wall_s": time.monotonic() - process_began, "cpu_s": time.process_time()}

    def report(event: Event) -> Verdict:
        if isinstance(event, EpochReport):
            mark("fold end")
        return Verdict.CONTINUE

    with first_steps(mark):
        for number in range(3):
            mark("trial begins")
            run = TrialRun(number, number, runs / f"trial-{number}")
            trainer.run_trial(spec, spec.hyperparameters(), report=report, run=run)
            mark("trial end")
    model, settings = trainer.model(spec.model), spec.hyperparameters()

    def reload() -> None:
        again = AutoModelForSequenceClassification.from_pretrained(folder / "base")
        for parameter in again.parameters():
            parameter.data.mul_(1.0)  # a mapped file is read when it is first written to

    first = mark.passed[1]
    last_fold_to_end = list(mark.between("fold end", "trial end"))
    return {
        "parameters": sum(parameter.numel() for parameter in model.module.parameters()),
        "process_start_to_ready": ready,
        "process_start_to_first_step": {"wall_s": first[1] - process_began, "cpu_s": first[2]},
        "fold_end_to_next_first_step": _median(list(mark.between("fold end", "first step"))),
        # the last fold's results to disk, then the next trial's beginning
        "trial_to_trial": _sum(
            _median(last_fold_to_end),
            _median(list(mark.between("trial begins", "first step"))[1:]),
        ),
        "restore_in_place": _seconds(lambda: model.begin(settings)),
        "keep_best": _seconds(model.keep_best),
        "reload_instead": _seconds(reload),
    }


def _seconds(work: Callable[[], object], times: int = 3) -> dict[str, float]:
    found = []
    for _ in range(times):
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        found.append({"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall})
    return _median(found)


def _median(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


def _sum(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    return {key: a[key] + b[key] for key in a}


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "grow":
        result = plan_only(int(rest[0]), Path(rest[1]))
    elif kind == "ready":
        result = made_ready(int(rest[0]), Path(rest[1]))
    else:
        result = fixed_costs(Path(rest[0]), float(rest[1]))
    print(json.dumps(result))
