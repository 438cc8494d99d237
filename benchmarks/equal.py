"""Whether our trainer learns what a plain loop learns: its loss curve, and F1 over several seeds.

    python benchmarks/equal.py [--json FILE]                    the loss curve, minutes
    python benchmarks/equal.py --data DIR [--posts N] [--seeds N] [--epochs N] [--json FILE]

The plain loop is a textbook's: whole batches padded to the longest input that the model takes,
transformers' own forward, weighted cross-entropy over two logits, AdamW a tensor at a time,
clipping, linear warm-up and decay. Both sides start from the same weights, see the same pairs in
the same order and take the same number of steps. The curve is compared without dropout, step by
step, in float32; F1 with it, on the fold's validation pairs after the last epoch, in the precision
that a study gets by default (ours) and in float32 (the plain loop). DIR is a corpus in the ReDSM5
layout with its own `criteria.json`; no text of it is printed or stored.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from criteria_cli.study.messages import TrainerSetup
from criteria_cli.study.spec import Hyperparameters, StudySpec
from criteria_cli.study.trial import Verdict
from criteria_cli.training import step
from criteria_cli.training.attention import Inputs, ReferenceForward
from criteria_cli.training.metrics import measure
from criteria_cli.training.optimizer import learning_rates, parameter_groups
from criteria_cli.training.sampling import epoch_pairs
from criteria_cli.training.seeds import seed_step
from criteria_cli.training.trainer import Trainer

NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0}
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}
"""Two-sided 95 % quantiles of Student's t by number of seeds."""


def trainer_of(folder: Path, data: dict[str, Any], **values: Any) -> Trainer:
    spec = StudySpec.model_validate(
        {
            "schema": 1,
            "name": "equal",
            "data": data,
            "validation": {"folds": 4},
            "model": {"name": "builtin:tiny-deberta-v2", **values.pop("model", {})},
            "training": {"warmup_ratio": 0.1, **values},
        }
    )
    return Trainer(TrainerSetup(spec, folder, folder / "runs", "cpu", torch.get_num_threads()))


def ours(
    trainer: Trainer, settings: Hyperparameters, train: Any, held: Any, seed: int
) -> tuple[list[float], float]:
    """Losses of every step and the F1 after the last epoch."""
    losses: list[float] = []
    accumulate = step.TrainingStep.accumulate

    def noting(self: Any, *arguments: Any) -> Any:
        loss = accumulate(self, *arguments)
        losses.append(loss.item())
        return loss

    step.TrainingStep.accumulate = noting  # type: ignore[method-assign]
    try:
        result = trainer.fit(
            settings, train, held, fold=1, seed=seed, report=lambda _: Verdict.CONTINUE
        )
    finally:
        step.TrainingStep.accumulate = accumulate  # type: ignore[method-assign]
    return losses, result.history[-1].score


def plain(
    trainer: Trainer, settings: Hyperparameters, train: Any, held: Any, seed: int
) -> tuple[list[float], float]:
    """The same of a plain loop."""
    model, examples = trainer.model(settings.model), trainer.examples(settings.model)
    module, training, width = model.module, settings.training, settings.model.max_length
    model.begin(settings)
    forward = ReferenceForward(module)
    optimizer = torch.optim.AdamW(parameter_groups(module, training), fused=False, foreach=False)
    size = training.batch_size
    per_epoch = -(-len(train) // size)
    rate = learning_rates(training, training.epochs * per_epoch)
    weight = torch.tensor([1.0, training.positive_weight])
    losses: list[float] = []

    def logits(pairs: Any) -> torch.Tensor:
        tokens = examples.tokens.batch(examples.post[pairs], examples.criterion[pairs], width)
        return forward(Inputs.of(tokens, torch.device("cpu")))

    for epoch in range(1, training.epochs + 1):
        module.train()
        order = epoch_pairs(train, examples.label[train], None, (seed, 1, epoch))
        for start in range(0, len(order), size):
            pairs = order[start : start + size]
            seed_step(seed, 1, epoch, start // size)
            labels = torch.from_numpy(examples.label[pairs].astype(np.int64))
            loss = torch.nn.functional.cross_entropy(logits(pairs), labels, weight)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), training.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = rate(len(losses))
            optimizer.step()
            losses.append(loss.item())
    module.eval()
    if not len(held):
        return losses, 0.0
    with torch.no_grad():
        found = torch.cat([logits(held[at : at + 64]) for at in range(0, len(held), 64)])
    scores = (found[:, 1] - found[:, 0]).numpy()
    metrics = measure(scores, examples.label[held], examples.criterion[held], examples.criteria)
    return losses, metrics.value("f1")


def curve(folder: Path, steps: int = 60) -> dict[str, Any]:
    """The largest difference of two loss curves, dropout off."""
    trainer = trainer_of(
        folder, {"format": "synthetic", "posts": 160}, epochs=3, batch_size=16, precision="fp32",
        learning_rate=1e-3, model={"max_length": 128, **NO_DROPOUT},
    )  # fmt: skip
    settings = trainer.spec.hyperparameters()
    train = trainer.folds[0].train[: steps // 3 * 16]
    nothing = np.zeros(0, dtype=np.int64)
    a, _ = ours(trainer, settings, train, nothing, seed=1)
    b, _ = plain(trainer, settings, train, nothing, seed=1)
    other, _ = ours(trainer, settings, train, nothing, seed=2)
    return {
        "steps": len(a),
        "first_loss": a[0],
        "last_loss": a[-1],
        "largest_difference": max(abs(x - y) for x, y in zip(a, b, strict=True)),
        "largest_difference_of_another_order": max(
            abs(x - y) for x, y in zip(a, other, strict=True)
        ),
    }


def f1(folder: Path, corpus: Path, posts: int, seeds: int, epochs: int) -> dict[str, Any]:
    """F1 on held-out pairs of a corpus over several seeds of both."""
    _subset(corpus, folder / "corpus", posts)
    trainer = trainer_of(
        folder, {"format": "redsm5", "path": "corpus", "criteria": "corpus/criteria.json"},
        epochs=epochs, batch_size=16, learning_rate=1e-3, early_stopping_patience=epochs,
        positive_weight=4.0,
        model={"max_length": 128},
    )  # fmt: skip
    settings = trainer.spec.hyperparameters()
    fold = trainer.folds[0]
    found: dict[str, list[float]] = {"ours": [], "plain": []}
    for seed in range(1, seeds + 1):
        for name, side in (("ours", ours), ("plain", plain)):
            found[name].append(side(trainer, settings, fold.train, fold.validation, seed)[1])
            print(f"seed {seed} {name} {found[name][-1]:.4f}", flush=True)
    differences = [a - b for a, b in zip(found["ours"], found["plain"], strict=True)]
    labels = trainer.corpus.label
    return {
        "corpus": corpus.name,
        "model": trainer.spec.model.name,
        "posts": posts,
        "train_pairs": len(fold.train),
        "validation_pairs": len(fold.validation),
        "positive_share": float(labels.mean()),
        "epochs": epochs,
        "precision": {"ours": trainer.precision, "plain": "fp32"},
        "f1": {name: _interval(values) for name, values in found.items()},
        "ours_less_plain": _interval(differences),
    }


def _interval(values: list[float]) -> dict[str, Any]:
    """Mean and 95 % interval (Student's t) over seeds."""
    half = T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.mean(values)
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": values}


def _subset(corpus: Path, folder: Path, posts: int) -> None:
    """The corpus's first posts, with all of their annotations."""
    import csv

    folder.mkdir()
    (folder / "criteria.json").write_bytes((corpus / "criteria.json").read_bytes())
    kept: set[str] = set()
    for name in ("posts.csv", "annotations.csv"):
        with (
            (corpus / name).open(newline="") as source,
            (folder / name).open("w", newline="") as to,
        ):
            rows = csv.DictReader(source)
            table = csv.DictWriter(to, rows.fieldnames or ())
            table.writeheader()
            for row in rows:
                if name == "posts.csv" and len(kept) < posts:
                    kept.add(row["post_id"])
                if row["post_id"] in kept:
                    table.writerow(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="a corpus in the ReDSM5 layout, for F1")
    parser.add_argument("--posts", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5, choices=sorted(T_95))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    options = parser.parse_args()
    result: dict[str, Any] = {"schema": "criteria.equal/1"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result["loss_curve"] = curve(folder)
        print(json.dumps(result["loss_curve"], indent=1), flush=True)
        if options.data:
            result["f1"] = f1(folder, options.data, options.posts, options.seeds, options.epochs)
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
