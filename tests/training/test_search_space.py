"""Every setting that may be searched changes the training, on three architectures."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from criteria_cli.data import wordnet
from criteria_cli.data.formats import load_corpus
from criteria_cli.errors import MachineError, UsageError
from criteria_cli.study.messages import TrainerSetup
from criteria_cli.study.spec import DataSpec, Hyperparameters, StudySpec
from criteria_cli.study.trial import Verdict
from criteria_cli.training.capabilities import unusable_settings
from criteria_cli.training.trainer import Trainer

from .architectures import MAIN, OTHERS, write_checkpoint

BASE: dict[str, Any] = {
    "training.epochs": 2,
    "training.batch_size": 8,
    "training.learning_rate": 5e-3,
    "training.precision": "fp32",
    "model.hidden_dropout": 0.0,
    "model.attention_dropout": 0.0,
    "model.classifier_dropout": 0.0,
}
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # the setting: what must stand for it to act, and another value of it
    "training.learning_rate": ({}, {"training.learning_rate": 1e-3}),
    "training.batch_size": ({}, {"training.batch_size": 16}),
    "training.epochs": ({}, {"training.epochs": 3}),
    "training.weight_decay": ({}, {"training.weight_decay": 0.3}),
    "training.warmup_ratio": ({}, {"training.warmup_ratio": 0.5}),
    "training.scheduler=cosine": ({}, {"training.scheduler": "cosine"}),
    "training.scheduler=constant": ({}, {"training.scheduler": "constant"}),
    "training.scheduler=cosine_with_restarts": (
        {"training.scheduler": "cosine"},
        {"training.scheduler": "cosine_with_restarts"},
    ),
    "training.scheduler_cycles": (
        {"training.scheduler": "cosine_with_restarts"},
        {"training.scheduler_cycles": 2},
    ),
    "training.loss=focal": ({}, {"training.loss": "focal"}),
    "training.loss=class_balanced": ({}, {"training.loss": "class_balanced"}),
    "training.focal_gamma": ({"training.loss": "focal"}, {"training.focal_gamma": 1.0}),
    "training.class_balanced_beta": (
        {"training.loss": "class_balanced"},
        {"training.class_balanced_beta": 0.9},
    ),
    "training.positive_weight": ({}, {"training.positive_weight": 3.0}),
    "training.label_smoothing": ({}, {"training.label_smoothing": 0.1}),
    "training.max_grad_norm": ({}, {"training.max_grad_norm": 0.01}),
    "training.layerwise_lr_decay": ({}, {"training.layerwise_lr_decay": 0.5}),
    "training.frozen_layers": ({}, {"training.frozen_layers": 1}),
    "training.negatives_per_positive": ({}, {"training.negatives_per_positive": 1.0}),
    "model.max_length": ({}, {"model.max_length": 60}),
    "model.head": ({}, {"model.head": "one_logit"}),
    "model.hidden_dropout": ({}, {"model.hidden_dropout": 0.3}),
    "model.attention_dropout": ({}, {"model.attention_dropout": 0.3}),
    "model.classifier_dropout": ({}, {"model.classifier_dropout": 0.3}),
    "model.lora": ({}, {"model.lora": True}),
    "model.lora_rank": ({"model.lora": True}, {"model.lora_rank": 2}),
    "model.lora_alpha": ({"model.lora": True}, {"model.lora_alpha": 64.0}),
    "model.lora_dropout": ({"model.lora": True}, {"model.lora_dropout": 0.5}),
    "model.lora_targets": ({"model.lora": True}, {"model.lora_targets": "all"}),
}


TOY = load_corpus(DataSpec(format="synthetic", posts=20), Path())
TOY_TEXTS = [*TOY.texts, *(criterion.text for criterion in TOY.criteria)]


def definition(path: Path, **search: Any) -> StudySpec:
    return StudySpec.model_validate(
        {
            "schema": 1,
            "name": "toy",
            "data": {"format": "synthetic", "posts": 20},
            "model": {"name": str(path), "max_length": 80},
            "validation": {"folds": 2},
            "search": search,
        }
    )


def trainer_of(spec: StudySpec, folder: Path) -> Trainer:
    return Trainer(TrainerSetup(spec=spec, base=folder, directory=folder, device="cpu", threads=1))


class Runs:
    """Fits of one architecture on the same few pairs."""

    def __init__(self, architecture: str, folder: Path) -> None:
        write_checkpoint(folder / "model", MAIN[architecture], TOY_TEXTS)
        self.spec = definition(folder / "model")
        self.trainer = trainer_of(self.spec, folder)
        self.done: dict[str, tuple[Any, ...]] = {}

    def __call__(self, *changes: dict[str, Any]) -> tuple[Any, ...]:
        """Losses of the epochs and scores at the end."""
        settings = dict(BASE)
        for change in changes:
            settings |= change
        key = repr(sorted(settings.items()))
        if key not in self.done:
            self.done[key] = self._fit(self.spec.hyperparameters(settings))
        return self.done[key]

    def _fit(self, hyperparameters: Hyperparameters) -> tuple[Any, ...]:
        first, second = self.trainer.folds
        result = self.trainer.fit(
            hyperparameters,
            first.train[:32],
            second.train[:8],
            fold=1,
            seed=3,
            report=lambda event: Verdict.CONTINUE,
        )
        return (*(epoch.train_loss for epoch in result.history), *result.scores.tolist())


@pytest.fixture(scope="module", params=MAIN)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("setting", CHANGES)
def test_a_searched_setting_changes_the_training(setting: str, runs: Runs) -> None:
    needed, change = CHANGES[setting]
    before, after = runs(needed), runs(needed, change)
    assert len(before) != len(after) or not np.allclose(before, after, rtol=1e-6, atol=0)


def test_nothing_else_changes_it(runs: Runs) -> None:
    """The same settings again, after all of the above, on the same resident model."""
    expected = runs()
    runs.done.clear()
    assert runs() == expected


def test_every_setting_that_trains_is_in_the_table() -> None:
    """Those left out choose or measure devices, or have tables in `test_windows.py` and
    `test_augmentation.py`."""
    known = {name.partition("=")[0] for name in CHANGES}
    hyperparameters = StudySpec.model_validate(
        {"schema": 1, "name": "x", "data": {"format": "synthetic"}}
    ).hyperparameters()
    every = {
        f"{section}.{key}"
        for section in ("model", "training")
        for key in type(getattr(hyperparameters, section)).model_fields
    }
    assert every - known == {
        "model.name",
        "model.attention",
        "model.compile",
        "model.long_posts",
        "model.window_overlap",
        "model.max_windows",
        "model.window_pooling",
        "training.early_stopping_patience",
        "training.eval_batch_size",
        "training.auto_detect_batch_size",
        "training.vram_headroom",
        "training.precision",
    }


# ---- what cannot act is refused


def test_every_architecture_has_a_place_for_every_setting(runs: Runs) -> None:
    model = runs.trainer.model(runs.spec.model).encoder
    keys = [f"{section}.{key}" for section, key in (name.split(".") for name in CHANGES)]
    assert unusable_settings(model, keys) == {}


def test_a_searched_setting_without_a_place_is_refused_by_name(tmp_path: Path) -> None:
    from transformers import AlbertConfig

    small = {
        "vocab_size": 2048, "embedding_size": 16, "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 32,
    }  # fmt: skip
    path = write_checkpoint(tmp_path / "model", AlbertConfig(**small), TOY_TEXTS)
    trainer_of(definition(path), tmp_path)
    for name, value in (("frozen_layers", {"low": 0, "high": 1}),
                        ("layerwise_lr_decay", {"low": 0.5, "high": 0.9})):  # fmt: skip
        with pytest.raises(UsageError, match=rf"`search.{name}` does nothing on model .*albert"):
            trainer_of(definition(path, **{name: value}), tmp_path)


def test_more_frozen_layers_than_there_are_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", OTHERS["distilbert"], TOY_TEXTS)
    with pytest.raises(UsageError, match=r"`search.frozen_layers` goes to 6, but .* has 2 layers"):
        trainer_of(definition(path, frozen_layers={"low": 0, "high": 6}), tmp_path)


# ---- what this machine lacks is named before the first trial


@pytest.fixture
def without_wordnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk.data

    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(wordnet, "FOLDERS", ())


@pytest.mark.usefixtures("without_wordnet")
def test_synonyms_that_some_trials_would_need(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", MAIN["bert"], TOY_TEXTS)
    sometimes = {"choices": [False, True]}
    with pytest.raises(MachineError, match="synonyms need WordNet's files") as refused:
        trainer_of(definition(path, **{"augmentation.enable": sometimes}), tmp_path)
    assert "wordnet-base" in (refused.value.hint or "")
    other = {"choices": ["contextual"], "when": "augmentation.enable"}
    trainer_of(
        definition(path, **{"augmentation.enable": sometimes, "augmentation.method": other}),
        tmp_path,
    )
    trainer_of(definition(path), tmp_path)


def test_adapters_that_some_trials_would_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_checkpoint(tmp_path / "model", MAIN["bert"], TOY_TEXTS)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MachineError, match=r"`model.lora` needs peft"):
        trainer_of(definition(path, **{"model.lora": {"choices": [False, True]}}), tmp_path)
    trainer_of(definition(path), tmp_path)
