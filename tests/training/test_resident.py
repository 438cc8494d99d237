"""What is made once is made once, and no step waits for the device or pads to the longest input
that the model takes (trap 35).
"""

import shutil
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from criteria_cli.data.formats import load_corpus
from criteria_cli.study.messages import TrainerSetup
from criteria_cli.study.trial import EpochReport, Event, TrialRun, Verdict
from criteria_cli.training import loaded as loaded_module
from criteria_cli.training.attention import moved
from criteria_cli.training.examples import ExampleSet
from criteria_cli.training.loop import _Fit
from criteria_cli.training.model import Encoder
from criteria_cli.training.resident import ResidentModel
from criteria_cli.training.token_pairs import TokenBatch
from criteria_cli.training.trainer import Trainer

from .architectures import MAIN, write_checkpoint
from .conftest import toy_spec

LONGEST = 512
READS = ("item", "cpu", "numpy", "tolist", "nonzero", "__array__", "__bool__", "__float__")
"""What makes the host wait for a tensor's values."""


@dataclass
class Watched:
    """A trial of two folds and two epochs."""

    epochs: list[tuple[int, int]] = field(default_factory=list)
    widths: list[tuple[bool, int, int]] = field(default_factory=list)
    """Of each micro-batch: whether it was trained on, its width, its longest pair."""
    steps: int = 0
    waited: list[str] = field(default_factory=list)
    """Reads of what the model computed, within a step."""
    inside: bool = False

    def report(self, event: Event) -> Verdict:
        if isinstance(event, EpochReport):
            self.epochs.append((event.fold, event.epoch))
        return Verdict.CONTINUE

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        scores, batch = ResidentModel.scores, _Fit._batch

        def measured(model: ResidentModel, tokens: TokenBatch) -> torch.Tensor:
            longest = int(tokens.lengths.max())
            self.widths.append((model.module.training, tokens.ids.shape[1], longest))
            return scores(model, tokens)

        def counted(fit: _Fit, *arguments: Any) -> None:
            self.inside, self.steps = True, self.steps + 1
            batch(fit, *arguments)
            self.inside = False

        patch.setattr(ResidentModel, "scores", measured)
        patch.setattr(_Fit, "_batch", counted)
        for name in READS:
            patch.setattr(torch.Tensor, name, self._spied(name))

    def _spied(self, name: str) -> Any:
        original = getattr(torch.Tensor, name)

        def read(tensor: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
            # float64 is what the host reckons with: a batch's weight
            if self.inside and tensor.dtype is torch.float32:
                self.waited.append(name)
            return original(tensor, *arguments, **keywords)

        return read


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Once the trainer is ready, its checkpoint is deleted and its tokenizer broken."""
    folder = tmp_path_factory.mktemp("resident")
    spec = toy_spec(epochs=2)
    data = spec.data.model_copy(update={"posts": 12})
    path = write_checkpoint(folder / "model", MAIN["deberta-v2"], load_corpus(data, folder).texts)
    model = spec.model.model_copy(update={"name": str(path), "max_length": LONGEST})
    spec = spec.model_copy(update={"data": data, "model": model})
    trainer = Trainer(TrainerSetup(spec, folder, folder / "runs", "cpu", 1))
    shutil.rmtree(path)
    found = Watched()
    with pytest.MonkeyPatch.context() as patch:
        # the part that turns text into numbers, whichever way it is called
        patch.setattr(trainer.model(spec.model).encoder.tokenizer, "_tokenizer", None)
        found.watch(patch)
        outcome = trainer.run_trial(
            spec, spec.hyperparameters(), report=found.report, run=TrialRun(0, 1, folder / "trial")
        )
    assert outcome.state == "complete"
    return found


def test_folds_and_epochs_neither_load_the_model_nor_tokenise(watched: Watched) -> None:
    assert watched.epochs == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_a_batch_is_as_wide_as_its_longest_pair(watched: Watched) -> None:
    assert {training for training, _, _ in watched.widths} == {True, False}
    for _, width, longest in watched.widths:
        assert longest <= width < longest + 8
        assert width < LONGEST


def test_no_step_waits_for_the_device(watched: Watched) -> None:
    assert watched.steps > 8
    assert watched.waited == []


def test_a_model_is_gone_before_the_next_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 24: two models in memory at once."""
    spec = toy_spec()
    trainer = Trainer(TrainerSetup(spec, tmp_path, tmp_path / "runs", "cpu", 1))
    fold = trainer.folds[0]
    trainer.fit(
        spec.hyperparameters(), fold.train[:16], fold.validation[:8], fold=1, seed=1,
        report=lambda _: Verdict.CONTINUE,
    )  # fmt: skip
    first = weakref.ref(trainer.model(spec.model).module)
    assert first() is not None
    found: list[object] = []
    load = loaded_module.load_encoder

    def loading(*arguments: Any) -> Encoder:
        found.append(first())
        return load(*arguments)

    monkeypatch.setattr(loaded_module, "load_encoder", loading)
    trainer.model(spec.model.model_copy(update={"head": "one_logit"}))
    assert found == [None]


def test_a_card_copies_from_pinned_memory_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: calls.append("pin") or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **how: calls.append(how) or tensor)
    moved(torch.zeros(2), torch.device("cuda", 0))
    assert calls == ["pin", {"non_blocking": True}]
    calls.clear()
    moved(torch.zeros(2), torch.device("cpu"))
    assert calls == [{"non_blocking": True}]


def test_a_micro_batch_is_assembled_when_the_one_before_it_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a card, which the host never waits for, computes while the next one is made."""
    spec = toy_spec()
    trainer = Trainer(TrainerSetup(spec, tmp_path, tmp_path / "runs", "cpu", 1))
    model = trainer.model(spec.model)
    bound = replace(model.planner.limits.train, full_rows=4, budget=0.0)
    monkeypatch.setattr(model.planner, "limits", replace(model.planner.limits, train=bound))
    order: list[str] = []
    tokens, backward = ExampleSet.tokens, torch.Tensor.backward

    def assembled(self: ExampleSet, part: Any) -> TokenBatch:
        order.append("assembled")
        return tokens(self, part)

    def begun(self: torch.Tensor, *arguments: Any, **keywords: Any) -> None:
        order.append("backward")
        backward(self, *arguments, **keywords)

    monkeypatch.setattr(ExampleSet, "tokens", assembled)
    monkeypatch.setattr(torch.Tensor, "backward", begun)
    trainer.fit(
        spec.hyperparameters(), trainer.folds[0].train[:16], np.zeros(0, dtype=np.int64), fold=1,
        seed=1, report=lambda _: Verdict.CONTINUE,
    )  # fmt: skip
    assert order == ["assembled", "backward"] * 4
