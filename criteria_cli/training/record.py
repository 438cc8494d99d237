"""What `criteria.json` records of a training: where the model comes from, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from criteria_cli.study.final import TrainOrder
from criteria_cli.training.estimates import NESTED, NESTED_CHOSEN, NESTED_FIXED, NESTED_TRIALS
from criteria_cli.training.trainer import Trainer


def training_record(
    order: TrainOrder, trainer: Trainer, estimates: Mapping[str, Any], epochs: int, seconds: float
) -> dict[str, Any]:
    """The record as JSON values; it holds no text and no path of this machine.

    Args:
        estimates: see `estimates.py`.
        epochs: of the model on all data.
        seconds: that folds and model took.
    """
    corpus = trainer.corpus
    settings = order.hyperparameters.to_json()
    base = _public_name(settings["model"]["name"])
    settings["model"]["name"] = base
    examples = trainer.examples(order.hyperparameters.model)
    cut = examples.tokens.cut(examples.post, examples.criterion)
    origin = "" if order.trial is None else f" --from {order.trial}"
    versions = dict(trainer.ready().versions)
    source = versions.pop("model")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "study": {
            "name": order.spec.name,
            "origin": order.origin,
            "trial": order.trial,
            "seed": order.seed,
            "command": f"criteria train {order.spec.name}{origin}",
        },
        "base": {"name": base, "source": source},
        "data": {
            "sha256": corpus.sha256,
            "posts": len(corpus.post_ids),
            "groups": len(set(corpus.groups)),
            "pairs": len(corpus),
            "positives": corpus.positives,
            "cut_share": float((cut > 0).mean()),
        },
        "hyperparameters": settings,
        "validation": order.spec.validation.model_dump(mode="json"),
        "final": {
            "epochs": epochs,
            "pairs": len(corpus),
            "seconds": seconds,
            "precision": trainer.precision,
        },
        "estimates": estimates,
        "versions": versions,
    }


def nested_means(order: TrainOrder) -> str:
    """What the nested estimate of this order covers, a sentence."""
    if order.chosen_without is not None:
        return NESTED + NESTED_TRIALS
    return NESTED + (NESTED_FIXED if order.trial is None else NESTED_CHOSEN)


def _public_name(model: str) -> str:
    """A hub name as it is; of a local path its last part alone."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model
