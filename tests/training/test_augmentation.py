from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_wordnet import write_tiny_wordnet
from transformers import AutoModelForMaskedLM, BertConfig, RobertaConfig

from criteria_cli.data.corpus import Corpus
from criteria_cli.data.formats import load_corpus
from criteria_cli.errors import UsageError
from criteria_cli.study.messages import TrainerSetup
from criteria_cli.study.spec import DataSpec, StudySpec
from criteria_cli.study.trial import EpochReport, Event, Report, Verdict
from criteria_cli.training import tiny
from criteria_cli.training.augmentation import Variants
from criteria_cli.training.checkpoint import Checkpoints
from criteria_cli.training.contextual import ContextualAugmenter
from criteria_cli.training.devices import CpuDevice
from criteria_cli.training.loop import FitResult
from criteria_cli.training.trainer import Trainer

from .architectures import MAIN, SMALL, write_checkpoint


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus(DataSpec(format="synthetic", posts=20), Path())


@pytest.fixture(scope="module", params=["bert", "roberta"])
def language_model(
    request: pytest.FixtureRequest, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("mlm")
    config = {"bert": BertConfig, "roberta": RobertaConfig}[request.param](**SMALL)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(path)
    tiny.tiny_tokenizer(corpus.texts).save_pretrained(path)
    return path


SENTENCE = "Since Monday I have felt GLOOMY, and nobody's visit (not 1!) helps."


def words(text: str) -> list[str]:
    return text.split()


def test_the_asked_share_of_words_is_replaced_and_nothing_else(language_model: Path) -> None:
    augmenter = ContextualAugmenter(str(language_model), 0.4, CpuDevice())
    for seed in range(10):
        rewritten = augmenter(SENTENCE, np.random.default_rng(seed))
        assert len(words(rewritten)) == len(words(SENTENCE))
        pairs = zip(words(SENTENCE), words(rewritten), strict=True)
        changed = [(old, new) for old, new in pairs if old != new]
        assert len(changed) == 4  # of Since, Monday, have, felt, GLOOMY, and, visit, not, helps
        for old, new in changed:
            assert new.strip("(.,").isalpha()
            assert old[:1].isupper() == new[:1].isupper()
            assert (old.strip(",").isupper()) == (new.strip(",").isupper())
        for kept in ("I", "nobody's", "1!)"):
            assert kept in words(rewritten)


def test_a_rewriting_is_a_function_of_the_random_numbers(language_model: Path) -> None:
    augmenter = ContextualAugmenter(str(language_model), 0.4, CpuDevice())
    first = [augmenter(SENTENCE, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert first[0] == first[1] != first[2]


def test_words_behind_the_models_end_stay(language_model: Path) -> None:
    augmenter = ContextualAugmenter(str(language_model), 1.0, CpuDevice())
    long = "gloomy " * 1000
    rewritten = augmenter(long, np.random.default_rng(0)).split()
    assert len(rewritten) == 1000
    assert rewritten[0] != "gloomy"
    assert rewritten[-1] == "gloomy"


def test_a_sentence_without_words_is_left_alone(language_model: Path) -> None:
    augmenter = ContextualAugmenter(str(language_model), 0.4, CpuDevice())
    assert augmenter("10:30 ... !", np.random.default_rng(0)) == "10:30 ... !"


def test_the_model_is_given_back(language_model: Path) -> None:
    augmenter = ContextualAugmenter(str(language_model), 0.4, CpuDevice())
    augmenter(SENTENCE, np.random.default_rng(0))
    assert "_loaded" in vars(augmenter)
    augmenter.close()
    assert "_loaded" not in vars(augmenter)


def test_a_classifier_is_no_language_model(tmp_path: Path) -> None:
    augmenter = ContextualAugmenter(str(write_checkpoint(tmp_path, MAIN["bert"])), 0.4, CpuDevice())
    with pytest.raises(UsageError, match="is not a masked language model"):
        augmenter(SENTENCE, np.random.default_rng(0))


# ---- in training


@pytest.fixture(scope="module")
def trainer(
    corpus: Corpus, language_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trainer]:
    folder = tmp_path_factory.mktemp("augmented")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WNSEARCHDIR", str(write_tiny_wordnet(folder / "dict")))
        yield trainer_of(corpus, language_model, folder)


def trainer_of(corpus: Corpus, language_model: Path, folder: Path) -> Trainer:
    texts = [*corpus.texts, *(criterion.text for criterion in corpus.criteria)]
    write_checkpoint(folder / "model", MAIN["bert"], texts)
    spec = StudySpec.model_validate(
        {
            "schema": 1,
            "name": "toy",
            "data": {"format": "synthetic", "posts": 20},
            "model": {"name": str(folder / "model"), "max_length": 128, "hidden_dropout": 0.0,
                      "attention_dropout": 0.0, "classifier_dropout": 0.0},
            "validation": {"folds": 2},
            "training": {"epochs": 2, "batch_size": 16, "precision": "fp32", "learning_rate": 5e-3},
            "augmentation": {"language_model": str(language_model)},
        }
    )  # fmt: skip
    return Trainer(TrainerSetup(spec=spec, base=folder, directory=folder, device="cpu", threads=1))


def fit(
    trainer: Trainer,
    *,
    checkpoints: Checkpoints | None = None,
    report: Report = lambda event: Verdict.CONTINUE,
    **settings: Any,
) -> FitResult:
    changes = {f"augmentation.{key}": value for key, value in settings.items()}
    return trainer.fit(
        trainer.spec.hyperparameters(changes),
        trainer.folds[0].train,
        trainer.folds[0].validation[:16],
        fold=1,
        seed=3,
        report=report,
        checkpoints=checkpoints,
    )


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "enable": ({}, {"enable": True, "probability": 1.0}),
    "method": ({"enable": True}, {"method": "contextual"}),
    "probability": ({"enable": True}, {"probability": 0.9}),
    "words": ({"enable": True, "probability": 1.0}, {"words": 0.9}),
    "variants": ({"enable": True, "method": "contextual", "probability": 1.0}, {"variants": 1}),
}


@pytest.mark.parametrize("setting", WAYS)
def test_each_setting_changes_the_training(setting: str, trainer: Trainer) -> None:
    needed, change = WAYS[setting]
    before, after = fit(trainer, **needed), fit(trainer, **needed, **change)
    losses = [[epoch.train_loss for epoch in result.history] for result in (before, after)]
    assert losses[0] != losses[1]


def test_nothing_else_changes_it(trainer: Trainer) -> None:
    losses = [[epoch.train_loss for epoch in fit(trainer, enable=True).history] for _ in range(2)]
    assert losses[0] == losses[1]


class FullCard(CpuDevice):
    """A card without room for another model."""

    kind = "simulated"

    @property
    def torch_device(self) -> torch.device:  # type: ignore[override]
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_on_a_full_card_the_language_model_runs_on_the_processor(
    corpus: Corpus, trainer: Trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = trainer.spec.hyperparameters(
        {"augmentation.enable": True, "augmentation.method": "contextual"}
    ).augmentation
    train = trainer.folds[0].train
    expected = Variants(corpus, tmp_path / "free", CpuDevice(), 42).of(train, settings)
    found = Variants(corpus, tmp_path / "full", FullCard(), 42).of(train, settings)
    assert found.texts == expected.texts
    assert "has no room for" in caplog.text


def test_what_was_applied_is_counted(trainer: Trainer) -> None:
    settings = {"enable": True, "probability": 1.0, "method": "contextual"}
    costs = fit(trainer, **settings).costs
    assert costs["augmentations_applied"] == 2 * costs["augmented_pairs"] > 0
    assert costs["evidence_found_share"] > 0.9
    half = fit(trainer, **(settings | {"probability": 0.5})).costs
    assert 0.3 < half["augmentations_applied"] / costs["augmentations_applied"] < 0.7
    assert "augmented_pairs" not in fit(trainer).costs


def test_what_an_earlier_process_applied_is_counted_too(trainer: Trainer, tmp_path: Path) -> None:
    def stopped(event: Event) -> Verdict:
        over = isinstance(event, EpochReport) and event.epoch == 1
        return Verdict.YIELD if over else Verdict.CONTINUE

    expected = fit(trainer, enable=True).costs["augmentations_applied"]
    checkpoints = Checkpoints(tmp_path, 1, "augmented")
    first = fit(trainer, enable=True, checkpoints=checkpoints, report=stopped)
    assert 0 < first.costs["augmentations_applied"] < expected
    second = fit(trainer, enable=True, checkpoints=checkpoints)
    assert second.costs["augmentations_applied"] == expected


def test_only_training_pairs_are_ever_rewritten(trainer: Trainer, corpus: Corpus) -> None:
    settings = trainer.spec.hyperparameters({"augmentation.enable": True}).augmentation
    train, held = trainer.folds[0].train, set(trainer.folds[0].validation.tolist())
    made = trainer._variants.of(train, settings)
    assert made.texts
    assert not held & set(made.texts)
    assert all(corpus.label[pair] for pair in made.texts)


def test_variants_are_kept_for_their_owner_alone(trainer: Trainer) -> None:
    fit(trainer, enable=True)
    kept = list((trainer.setup.directory / "cache").glob("variants-*.json"))
    assert kept
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
