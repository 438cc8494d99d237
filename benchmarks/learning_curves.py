"""Record real learning curves, for `benchmarks/pruning.py` to replay under every pruning rule.

    python benchmarks/learning_curves.py --scratch FOLDER

The task: does a sentence of a contract let information be shared with third parties? Sentences and
labels come from ContractNLI (Koreeda and Manning, 2021, CC BY 4.0) as it lies in
`../shared/data/contractnli`; the model is a BERT of one layer with random weights, small enough to
train thousands of folds on one core. Each configuration is drawn at random from `SEARCH` and
trained whole, five folds of ten epochs, by the project's own trainer. The best are trained again,
with other folds and seeds, to know their true means apart from the luck that put them in front.
Only scores are stored, no text.

Interrupted, it goes on where it was: finished runs are kept in `--scratch`. What is stored in the
repository was ended before all second repeats were trained; `data/learning_curves.json` says how
many there are.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from criteria_cli.study.messages import TrainerSetup
from criteria_cli.study.spec import Hyperparameters, StudySpec
from criteria_cli.study.trial import EpochReport, Event, TrialRun, Verdict
from criteria_cli.training.tiny import VOCABULARY, tiny_tokenizer
from criteria_cli.training.trainer import Trainer

HERE = Path(__file__).resolve().parent
CONTRACTS = HERE.parent.parent / "shared" / "data" / "contractnli"
CRITERION = "SHARING_WITH_THIRD_PARTIES"
SENTENCES, POSITIVE_SHARE = 400, 0.35
FOLDS, EPOCHS = 5, 10
SEARCH: dict[str, Any] = {
    "learning_rate": {"low": 2e-4, "high": 2e-2, "log": True},
    "batch_size": {"choices": [16, 32, 64]},
    "weight_decay": {"low": 0.0, "high": 0.3},
    "warmup_ratio": {"low": 0.0, "high": 0.3},
    "scheduler": {"choices": ["linear", "cosine", "constant"]},
    "positive_weight": {"low": 1.0, "high": 4.0},
    "label_smoothing": {"low": 0.0, "high": 0.2},
    "model.hidden_dropout": {"low": 0.0, "high": 0.4},
}


def write_task(folder: Path) -> None:
    """The pairs table, its one criterion and the untrained model."""
    groups = {row["post_id"]: row["group_id"] for row in _rows(CONTRACTS / "posts.csv")}
    sentences: dict[str, tuple[str, set[str]]] = {}
    for row in _rows(CONTRACTS / "annotations.csv"):
        if row["status"] == "1":
            known = sentences.setdefault(row["sentence_text"], (groups[row["post_id"]], set()))
            known[1].add(row["DSM5_symptom"])
    rng = np.random.default_rng(0)
    listed = list(sentences.items())
    shuffled = [listed[place] for place in rng.permutation(len(listed))]
    positive = [item for item in shuffled if CRITERION in item[1][1]]
    negative = [item for item in shuffled if CRITERION not in item[1][1]]
    wanted = round(SENTENCES * POSITIVE_SHARE)
    chosen = positive[:wanted] + negative[: SENTENCES - wanted]
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["post_id", "group_id", "post", "DSM5_symptom", "groundtruth"])
        for number, (text, (group, names)) in enumerate(chosen):
            writer.writerow([f"s{number}", group, text, CRITERION, int(CRITERION in names)])
    catalogue = {"criteria": [{"id": CRITERION, "name": CRITERION, "text": "sharing"}]}
    (folder / "criteria.json").write_text(json.dumps(catalogue), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        pad_token_id=0,
        initializer_range=0.05,
    )
    BertModel(config).save_pretrained(folder / "model")
    tiny_tokenizer([text for text, _ in chosen]).save_pretrained(folder / "model")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def definition(folder: Path, repeat: int) -> StudySpec:
    """The study of one repeat."""
    return StudySpec.from_json(
        {
            "schema": 1,
            "name": "learning_curves",
            "data": {
                "format": "pairs",
                "path": "pairs.csv",
                "criteria": "criteria.json",
                "columns": {"group": "group_id"},
            },
            "model": {"name": str(folder / "model"), "max_length": 48, "head": "two_logits"},
            "validation": {"folds": FOLDS, "seed": repeat, "metric": "f1"},
            "training": {
                "epochs": EPOCHS,
                "early_stopping_patience": EPOCHS,
                "precision": "fp32",
            },
            "search": SEARCH,
            "pruner": {"type": "none"},
        }
    )


def configuration(spec: StudySpec, number: int) -> dict[str, Any]:
    """The values of one configuration, the same in every repeat."""
    rng = np.random.default_rng([7, number])
    drawn: dict[str, Any] = {}
    for name, parameter in spec.search.items():
        if parameter.choices is not None:
            drawn[name] = parameter.choices[int(rng.integers(len(parameter.choices)))]
            continue
        low, high = (float(bound) for bound in parameter.extremes())
        value = np.exp(rng.uniform(np.log(low), np.log(high))) if parameter.log else None
        drawn[name] = float(f"{value or rng.uniform(low, high):.4g}")
    return drawn


def train(trainer: Trainer, spec: StudySpec, values: dict[str, Any], run: TrialRun) -> np.ndarray:
    """(folds, epochs) validation scores."""
    scores = np.full((FOLDS, EPOCHS), np.nan)

    def report(event: Event) -> Verdict:
        if isinstance(event, EpochReport):
            scores[event.fold - 1, event.epoch - 1] = event.score
        return Verdict.CONTINUE

    hyperparameters: Hyperparameters = spec.hyperparameters(values)
    trainer.run_trial(spec, hyperparameters, report=report, run=run)
    return scores


def record(scratch: Path, configurations: int, again: int, repeats: int) -> None:
    """Train what is not trained yet, one JSON line a run."""
    scratch.mkdir(parents=True, exist_ok=True)
    if not (scratch / "model").exists():
        write_task(scratch)
    done = {(run["repeat"], run["configuration"]) for run in recorded(scratch)}
    for repeat in range(1 + repeats):
        numbers = range(configurations) if repeat == 0 else best(scratch, again)
        spec = definition(scratch, repeat)
        trainer = Trainer(TrainerSetup(spec, scratch, scratch, "cpu", 1))
        for number in numbers:
            if (repeat, number) in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                run = TrialRun(number, 1000 * repeat + number, Path(folder))
                scores = train(trainer, spec, configuration(spec, number), run)
            line = {"repeat": repeat, "configuration": number, "scores": scores.round(4).tolist()}
            with (scratch / "runs.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"repeat {repeat} configuration {number}: {scores.max(axis=1).mean():.3f}")


def best(scratch: Path, count: int) -> list[int]:
    """The configurations with the highest means in the first repeat."""
    means = {
        run["configuration"]: np.max(run["scores"], axis=1).mean()
        for run in recorded(scratch)
        if run["repeat"] == 0
    }
    return sorted(means, key=lambda number: (-means[number], number))[:count]


def recorded(scratch: Path) -> Iterator[dict[str, Any]]:
    path = scratch / "runs.jsonl"
    if path.exists():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def store(scratch: Path, out: Path) -> None:
    """The table, one line a fold, and beside it what was trained."""
    runs = sorted(recorded(scratch), key=lambda run: (run["repeat"], run["configuration"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["repeat", "configuration", "fold", *range(1, EPOCHS + 1)])
    for run in runs:
        for fold, scores in enumerate(run["scores"], start=1):
            writer.writerow([run["repeat"], run["configuration"], fold, *scores])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    spec = definition(scratch, 0)
    numbers = sorted({run["configuration"] for run in runs})
    about = {
        "task": f"ContractNLI sentences, {CRITERION}, {SENTENCES} of them",
        "model": "BERT, 1 layer of 32, random weights",
        "metric": "f1",
        "folds": FOLDS,
        "epochs": EPOCHS,
        "runs": dict(sorted(Counter(f"repeat {run['repeat']}" for run in runs).items())),
        "search": SEARCH,
        "configurations": {number: configuration(spec, number) for number in numbers},
    }
    out.with_suffix("").with_suffix(".json").write_text(
        json.dumps(about, indent=1) + "\n", encoding="utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configurations", type=int, default=160)
    parser.add_argument("--again", type=int, default=40, help="how many of the best to repeat")
    parser.add_argument("--repeats", type=int, default=2, help="how often")
    parser.add_argument("--scratch", type=Path, required=True, help="keeps finished runs")
    parser.add_argument("--out", type=Path, default=HERE / "data" / "learning_curves.csv.gz")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record(arguments.scratch, arguments.configurations, arguments.again, arguments.repeats)
    store(arguments.scratch, arguments.out)


if __name__ == "__main__":
    main()
