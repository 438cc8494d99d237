"""Every shipped definition loads, is whole, and differs from its siblings only where meant."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from criteria_cli.bundled import bundled, bundled_names
from criteria_cli.study.files import load_definition
from criteria_cli.study.spec import flatten

NAMES = [
    "bge_reranker",
    "deberta_base_aug",
    "deberta_base_nli_aug",
    "deberta_base_nli_noaug",
    "deberta_base_noaug",
    "demo",
    "optuna",
    "pc_ce",
]
AUGMENTATION = {
    "augmentation.enable",
    "search.augmentation.method",
    "search.augmentation.probability",
    "search.augmentation.words",
}
START = {"model.name", "model.head"}


def test_these_are_shipped() -> None:
    assert bundled_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_loads_and_names_every_section(name: str) -> None:
    definition = load_definition(name, environ={})
    raw = tomllib.loads((bundled("studies") / f"{name}.toml").read_text())
    assert definition.spec.name == name
    assert {
        "schema", "name", "data", "model", "validation", "training", "augmentation", "search",
        "pruner", "sampler", "budget",
    } == set(raw)  # fmt: skip
    assert f"criteria hpo {name}" in (bundled("studies") / f"{name}.toml").read_text()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "demo"])
def test_the_searches_are_the_ones_promised(name: str) -> None:
    """Batch sizes, budget, pruner, epochs and patience as the project's description has them."""
    spec = load_definition(name, environ={}).spec
    assert spec.budget.trials == 2000
    assert spec.search["batch_size"].choices == (16, 32, 64, 128)
    assert (spec.training.epochs, spec.training.early_stopping_patience) == (100, 20)
    assert (spec.pruner.type, spec.pruner.resource) == ("hyperband", "fold")
    assert (
        spec.pruner.min_resource,
        spec.pruner.max_resource,
        spec.pruner.reduction_factor,
        spec.pruner.startup_trials,
    ) == (1, 5, 3, 10)
    assert spec.pruner.patience is not None
    # trap 27: the spec's rule, against a trial's own folds, judges by their order
    assert (spec.pruner.patience.folds, spec.pruner.patience.against) == (2, "incumbent")
    assert (spec.validation.scheme, spec.validation.folds) == ("kfold", 5)


def settings(name: str) -> dict[str, Any]:
    return dict(flatten(load_definition(name, environ={}).spec.to_json()))


@pytest.mark.parametrize(
    ("one", "other", "keys"),
    [
        ("deberta_base_aug", "deberta_base_noaug", AUGMENTATION),
        ("deberta_base_nli_aug", "deberta_base_nli_noaug", AUGMENTATION),
        ("deberta_base_aug", "deberta_base_nli_aug", START),
        ("deberta_base_noaug", "deberta_base_nli_noaug", START),
    ],
)
def test_siblings_differ_only_where_meant(one: str, other: str, keys: set[str]) -> None:
    first, second = settings(one), settings(other)
    differing = {key for key in {*first, *second} - {"name"} if first.get(key) != second.get(key)}
    assert differing == keys
