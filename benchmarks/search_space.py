"""What each searched setting changes in training, on three architectures.

    .venv/bin/python benchmarks/search_space.py

For each setting two small models are trained on the same few pairs of a generated corpus, from
the same weights and in the same order, with two values of that setting alone: the pairs of values
that `tests/training` trains to show that no setting is dead. Dropout is off but where it is
looked at. The result is written to benchmarks/results/search_space.json, the table printed.

    loss     the largest change of an epoch's training loss, in parts of it
    weights  how far apart the trained weights lie, in parts of how far training had moved them;
             null where the two models have different matrices
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from tiny_wordnet import write_tiny_wordnet

from criteria_cli.study.spec import Hyperparameters
from tests.training import test_augmentation, test_search_space, test_windows
from tests.training.architectures import MAIN, SMALL

RESULT = ROOT / "benchmarks" / "results" / "search_space.json"

Change = tuple[dict[str, Any], dict[str, Any]]
"""What must stand for a setting to act, and another value of it."""


def changes(language_model: Path) -> dict[str, Change]:
    """Every setting that a definition may search, as the tests change it."""
    found: dict[str, Change] = dict(test_search_space.CHANGES)
    short = {"model.max_length": 64}
    for name, (needed, change) in test_windows.CHANGES.items():
        found[f"model.{name}"] = (short | needed, change)
    speaks = short | {"augmentation.language_model": str(language_model)}
    for name, values in test_augmentation.WAYS.items():
        needed, change = (
            {f"augmentation.{key}": to for key, to in part.items()} for part in values
        )
        found[f"augmentation.{name}"] = (speaks | needed, change)
    return found


class Measured(test_search_space.Runs):
    """Fits of one architecture, and the weights that each ended with."""

    def __init__(self, architecture: str, folder: Path) -> None:
        super().__init__(architecture, folder)
        self.began = self._weights(self.spec.hyperparameters(test_search_space.BASE))
        self._trained: dict[int, dict[str, Tensor]] = {}

    def _fit(self, hyperparameters: Hyperparameters) -> tuple[Any, ...]:
        values = super()._fit(hyperparameters)
        self._trained[id(values)] = self._weights(hyperparameters)
        return values

    def _weights(self, hyperparameters: Hyperparameters) -> dict[str, Tensor]:
        parameters = self.trainer.model(hyperparameters.model).parameters
        return {name: value.detach().clone() for name, value in parameters.items()}

    def compare(self, needed: dict[str, Any], change: dict[str, Any]) -> dict[str, float | None]:
        before, after = self(needed), self(needed, change)
        epochs = [len(values) - SCORES for values in (before, after)]
        losses = zip(before[: min(epochs)], after[: min(epochs)], strict=True)
        first, second = self._trained[id(before)], self._trained[id(after)]
        weights = None
        if {name: value.shape for name, value in first.items()} == {
            name: value.shape for name, value in second.items()
        }:
            began = {name: self.began.get(name, torch.zeros_like(to)) for name, to in first.items()}
            weights = _distance(second, first) / _distance(first, began)
        return {"loss": max(abs(new - old) / old for old, new in losses), "weights": weights}


SCORES = 8
"""Held-out scores behind the losses of a run."""


def _distance(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    squares = sum(((left[name] - right[name]) ** 2).sum().item() for name in left)
    return float(squares**0.5)


def values(runs: Measured, name: str, change: Change) -> dict[str, Any]:
    """The two values of a setting, and what stood beside them."""
    key = name.partition("=")[0]
    section, _, field = key.partition(".")
    needed, other = change
    found = {}
    for word, settings in (("from", needed), ("to", needed | other)):
        hyperparameters = runs.spec.hyperparameters(test_search_space.BASE | settings)
        found[word] = getattr(getattr(hyperparameters, section), field)
    beside = {
        each: value
        for each, value in (needed | other).items()
        if each not in (key, "augmentation.language_model")
    }
    return {"setting": key, **found, "with": beside}


def masked_language_model(folder: Path) -> Path:
    """A tiny one with random weights, for contextual augmentation."""
    from transformers import AutoModelForMaskedLM, BertConfig

    from criteria_cli.training.tiny import tiny_tokenizer

    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(BertConfig(**SMALL)).save_pretrained(folder)
    tiny_tokenizer(test_search_space.TOY_TEXTS).save_pretrained(folder)
    return folder


def main() -> None:
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["WNSEARCHDIR"] = str(write_tiny_wordnet(folder / "wordnet"))
        every = changes(masked_language_model(folder / "mlm"))
        for architecture in MAIN:
            runs = Measured(architecture, folder / architecture)
            for name, change in every.items():
                row = rows.setdefault(name, {**values(runs, name, change), "changes": {}})
                row["changes"][architecture] = runs.compare(*change)
    result = {
        "schema": "criteria.benchmark.search_space/1",
        "command": "benchmarks/search_space.py",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "settings": list(rows.values()),
    }
    RESULT.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """The result in Markdown: the change of the loss and, in brackets, of the weights."""
    names = list(result["settings"][0]["changes"])
    lines = [
        f"| setting | from | to | {' | '.join(names)} |",
        f"|---|---|---|{'---|' * len(names)}",
    ]
    for row in result["settings"]:
        cells = [_cell(row["changes"][name]) for name in names]
        lines.append(
            f"| `{row['setting']}` | {_value(row['from'])} | {_value(row['to'])} "
            f"| {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _cell(change: dict[str, float | None]) -> str:
    weights = change["weights"]
    return f"{change['loss']:.2g}" + ("" if weights is None else f" ({weights:.2g})")


def _value(value: Any) -> str:
    if value is None:
        return "all"  # negatives_per_positive: no limit
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
