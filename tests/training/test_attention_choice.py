"""The fastest way to run a model is taken among those that compute the same, and no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from criteria_cli.study.spec import AugmentationSpec, Hyperparameters, ModelSpec, TrainingSpec
from criteria_cli.training import attention_checks, attention_choice
from criteria_cli.training.attention import DebertaForward, Forward, Inputs, ReferenceForward
from criteria_cli.training.attention_choice import (
    COMPILE_FROM_S,
    candidates,
    choose,
    settle_attention,
)
from criteria_cli.training.batches import Planner
from criteria_cli.training.compiled import CompiledForward
from criteria_cli.training.devices import CpuDevice
from criteria_cli.training.fused import FusedForward
from criteria_cli.training.heads import choose_head
from criteria_cli.training.memory import whole_batches
from criteria_cli.training.model import Encoder
from criteria_cli.training.resident import ResidentModel

from .test_attention import deberta

SPEC = ModelSpec(max_length=32)


@pytest.fixture
def model() -> ResidentModel:
    module = deberta(attention_probs_dropout_prob=0.1).float()
    head = choose_head(module.config, True, SPEC)
    encoder = Encoder(module, head, tokenizer=None, name="m")  # type: ignore[arg-type]
    return ResidentModel(encoder, CpuDevice(), Planner(whole_batches(32)), "fp32")


def spec_of(attention: str) -> Hyperparameters:
    model = SPEC.model_copy(update={"attention": attention, "compile": True})
    return Hyperparameters(model, TrainingSpec(), AugmentationSpec())


class Slow:
    """A candidate that takes `seconds` on the clock it shares with the test."""

    def __init__(self, forward: Forward, seconds: float, clock: Clock) -> None:
        self.forward, self.seconds, self.clock = forward, seconds, clock

    def __call__(self, inputs: Inputs) -> Tensor:
        self.clock.now += self.seconds
        return self.forward(inputs)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_fastest_wins(model: ResidentModel) -> None:
    clock = Clock()
    plain = DebertaForward(model.module)
    offered: dict[str, Callable[[], Forward]] = {
        name: lambda seconds=seconds: Slow(plain, seconds, clock)
        for name, seconds in (("rewrite", 2.0), ("fast", 1.0), ("slow", 3.0))
    }
    choice = choose(model, offered, length=32, plain="rewrite", clock=clock)
    assert choice.name == "fast"
    assert dict(choice.seconds) == {"rewrite": 2.0, "fast": 1.0, "slow": 3.0}
    assert all(parameter.grad is None for parameter in model.parameters.values())


class WithoutDropout:
    """What flashdeberta does: attention probabilities are never dropped."""

    def __init__(self, module: Any) -> None:
        self.module, self.forward = module, DebertaForward(module)

    def __call__(self, inputs: Inputs) -> Tensor:
        parts = [layer.attention.self.dropout for layer in self.module.deberta.encoder.layer]
        before = [part.p for part in parts]
        for part in parts:
            part.p = 0.0
        try:
            return self.forward(inputs)
        finally:
            for part, rate in zip(parts, before, strict=True):
                part.p = rate


def nearly(forward: Forward) -> Forward:
    return lambda inputs: forward(inputs) * 1.01


def broken(_: Inputs) -> Tensor:
    raise RuntimeError("no kernel image\nfor this card")


def full(_: Inputs) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_what_is_not_exact_never_wins(
    model: ResidentModel, caplog: pytest.LogCaptureFixture
) -> None:
    module = model.module
    plain = DebertaForward(module)
    choice = choose(
        model,
        {
            "rewrite": lambda: plain,
            "no dropout": lambda: WithoutDropout(module),
            "one percent off": lambda: nearly(plain),
            "no gradient": lambda: lambda inputs: plain(inputs).detach().requires_grad_(),
            "not run": lambda: broken,
            "too large": lambda: full,
        },
        length=32,
        plain="rewrite",
    )
    assert choice.name == "rewrite"
    assert set(choice.refused) == {
        "no dropout", "one percent off", "no gradient", "not run", "too large",
    }  # fmt: skip
    assert choice.refused["no dropout"] == "its attention dropout acts otherwise"
    assert choice.refused["one percent off"].startswith("it is not exact")
    assert choice.refused["not run"] == "RuntimeError: no kernel image"
    assert choice.refused["too large"] == "too little memory"
    said = [record.getMessage() for record in caplog.records]
    assert "attention `no dropout` is left out: its attention dropout acts otherwise" in said


def test_a_card_too_small_to_compare_on_keeps_the_plain_one(
    model: ResidentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DebertaForward(model.module)
    monkeypatch.setattr(
        attention_choice, "candidates", lambda *_: {"rewrite": lambda: plain, "x": lambda: plain}
    )
    monkeypatch.setattr(attention_checks, "ReferenceForward", lambda _: full)
    learned: dict[str, Any] = {}
    assert settle_attention(model, SPEC, key="k", learn=learned.__setitem__).name == "rewrite"
    assert not learned


def test_a_processor_compiles_only_when_asked_to(model: ResidentModel) -> None:
    assert list(candidates(model, SPEC)) == ["rewrite"]
    for wanted, offered in ((True, ["rewrite", "compiled"]), (False, ["rewrite"])):
        spec = SPEC.model_copy(update={"compile": wanted})
        assert list(candidates(model, spec)) == offered


def test_a_card_is_offered_compilation_unless_it_is_forbidden(
    model: ResidentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.device, "kind", "cuda")
    assert list(candidates(model, SPEC)) == ["rewrite", "compiled"]
    assert list(candidates(model, SPEC.model_copy(update={"compile": False}))) == ["rewrite"]


def test_a_short_study_is_not_worth_a_compiler(
    model: ResidentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.device, "kind", "cuda")
    short, asked = COMPILE_FROM_S / 2, SPEC.model_copy(update={"compile": True})
    assert list(candidates(model, SPEC, short)) == ["rewrite"]
    assert list(candidates(model, SPEC, 2 * COMPILE_FROM_S)) == ["rewrite", "compiled"]
    assert list(candidates(model, asked, short)) == ["rewrite", "compiled"]


def test_a_card_is_offered_fused_kernels_where_they_are_installed(
    model: ResidentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FusedForward, "serves", lambda _: True)
    assert "fused" not in candidates(model, SPEC)  # a processor has none
    monkeypatch.setattr(model.device, "kind", "cuda")
    assert list(candidates(model, SPEC)) == ["rewrite", "fused", "compiled", "fused_compiled"]
    assert list(candidates(model, SPEC.model_copy(update={"compile": False}))) == [
        "rewrite", "fused",
    ]  # fmt: skip


def test_another_version_of_the_kernels_is_tried_anew(
    model: ResidentModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plain = DebertaForward(model.module)
    monkeypatch.setattr(
        attention_choice, "candidates", lambda *_: {"rewrite": lambda: plain, "x": lambda: plain}
    )
    learned: dict[str, Any] = {}
    settle_attention(model, SPEC, key="k", learn=learned.__setitem__)
    (kept,) = learned.values()
    tried = []
    monkeypatch.setattr(attention_choice, "objections", lambda *_: tried.append(1) or {})
    settle_attention(model, SPEC, key="k", known=learned)
    assert not tried
    monkeypatch.setattr(attention_choice, "kernels_version", lambda: "0.0")
    settle_attention(model, SPEC, key="k", known=learned)
    assert tried
    assert kept["kernels"] != "0.0"


def test_a_result_is_kept_and_used_again(
    model: ResidentModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tried, learned = [], {}
    plain, other = DebertaForward(model.module), DebertaForward(model.module)

    def offer(*_: Any) -> Any:
        return {"rewrite": lambda: plain, "compiled": lambda: other}

    def measured(*_: Any, **__: Any) -> Any:
        tried.append(1)
        return attention_choice.Choice("compiled", {"rewrite": 2.0, "compiled": 1.0})

    monkeypatch.setattr(attention_choice, "candidates", offer)
    monkeypatch.setattr(attention_choice, "choose", measured)
    for known in (None, None, learned):
        settle_attention(model, SPEC, key="k", known=known, learn=learned.__setitem__)
        assert model.forward is other
    assert len(tried) == 1
    assert learned["k.attention"]["seconds"]["compiled"] == 1.0
    # the store's is enough, for a machine that has none
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    settle_attention(model, SPEC, key="k", known=learned)
    assert len(tried) == 1
    settle_attention(model, SPEC, key="another", known=learned)
    assert len(tried) == 2


def test_compile_true_compiles_and_a_reference_study_does_not(
    model: ResidentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **k: real(*a, **(k | {"backend": "eager"})))
    spec = SPEC.model_copy(update={"compile": True})
    assert settle_attention(model, spec).name == "compiled"
    compiled = model.forward
    assert isinstance(compiled, CompiledForward)
    assert not compiled.failed
    for attention, kind in (("reference", ReferenceForward), ("auto", CompiledForward)):
        hyper = spec_of(attention)
        model.begin(hyper)
        assert isinstance(model.forward, kind)
    assert model.forward is compiled  # from trial to trial the same one


def test_compile_true_is_not_followed_where_it_fails(
    model: ResidentModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    offered = {"rewrite": lambda: DebertaForward(model.module), "compiled": lambda: broken}
    monkeypatch.setattr(attention_choice, "candidates", lambda *_: offered)
    choice = settle_attention(model, SPEC.model_copy(update={"compile": True}))
    assert choice.name == "rewrite"
    assert isinstance(model.forward, DebertaForward)
    assert "attention `compiled` is left out: RuntimeError: no kernel image" in caplog.messages
    assert "`model.compile` is not followed, the model runs as `rewrite`" in caplog.messages


def test_other_architectures_run_their_own_code(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = deberta(pos_att_type=["c2p"]).float()
    head = choose_head(module.config, True, SPEC)
    encoder = Encoder(module, head, tokenizer=None, name="m")  # type: ignore[arg-type]
    model = ResidentModel(encoder, CpuDevice(), Planner(whole_batches(32)), "fp32")
    choice = settle_attention(model, SPEC.model_copy(update={"compile": True}))
    assert choice.name == "reference"
    assert isinstance(model.forward, ReferenceForward)
    assert "only DeBERTa without adapters is compiled" in caplog.text
