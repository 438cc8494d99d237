"""Parameter groups, learning rates, and an optimiser on memory that is reused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from criteria_cli.errors import UsageError
from criteria_cli.study.spec import ModelSpec, TrainingSpec
from criteria_cli.training import tiny
from criteria_cli.training.model import load_encoder
from criteria_cli.training.optimizer import (
    OptimizerMemory,
    depth,
    freeze,
    layer_count,
    learning_rates,
    parameter_groups,
    set_learning_rate,
    state_tensors,
)


@pytest.fixture
def module() -> PreTrainedModel:
    return load_encoder(ModelSpec(name=tiny.NAME), ["a post", "a criterion"]).module


def rates(steps: int, **settings: object) -> list[float]:
    rate = learning_rates(TrainingSpec.model_validate(settings), steps)
    return [rate(step) for step in range(steps)]


def test_the_rate_rises_then_falls_and_no_step_learns_nothing() -> None:
    found = rates(20, learning_rate=1.0, warmup_ratio=0.25, scheduler="linear")
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[5:] == pytest.approx([1 - step / 15 for step in range(15)])
    assert min(found) > 0


@given(
    steps=st.integers(1, 400),
    warmup=st.floats(0, 1),
    scheduler=st.sampled_from(["linear", "cosine", "cosine_with_restarts", "constant"]),
)
def test_every_schedule_stays_within_its_rate(steps: int, warmup: float, scheduler: str) -> None:
    found = rates(steps, learning_rate=3e-5, warmup_ratio=warmup, scheduler=scheduler)
    assert all(0 <= rate <= 3e-5 * (1 + 1e-9) for rate in found)
    assert max(found) == pytest.approx(3e-5)
    rise = found[: math.ceil(warmup * steps)]
    assert rise == sorted(rise)


def test_each_schedule_is_another() -> None:
    found = {
        scheduler: tuple(rates(50, scheduler=scheduler))
        for scheduler in ("linear", "cosine", "cosine_with_restarts", "constant")
    }
    assert len(set(found.values())) == 4
    restarts = rates(62, scheduler="cosine_with_restarts", scheduler_cycles=2, warmup_ratio=0.0)
    assert restarts[31] == pytest.approx(restarts[0])
    assert tuple(restarts) != tuple(rates(62, scheduler="cosine", warmup_ratio=0.0))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deberta.embeddings.word_embeddings.weight", 0),
        ("deberta.encoder.rel_embeddings.weight", 0),
        ("deberta.encoder.LayerNorm.weight", 0),
        ("deberta.encoder.conv.conv.weight", 1),
        ("deberta.encoder.layer.0.attention.self.query_proj.weight", 1),
        ("deberta.encoder.layer.11.output.LayerNorm.bias", 12),
        ("model.layers.3.mlp.Wi.weight", 4),
        ("distilbert.transformer.layer.2.ffn.lin1.weight", 3),
        ("pooler.dense.weight", 13),
        ("roberta.encoder.layer.0.output.LayerNorm.weight", 1),
        ("roberta.embeddings.LayerNorm.weight", 0),
        ("classifier.out_proj.bias", 13),
    ],
)
def test_depths(name: str, expected: int) -> None:
    assert depth(name, 12) == expected


def test_layerwise_decay_falls_from_the_top(module: PreTrainedModel) -> None:
    training = TrainingSpec(layerwise_lr_decay=0.5, learning_rate=8.0)
    optimizer = OptimizerMemory().build(module, training)
    set_learning_rate(optimizer, 8.0)
    rate = {
        parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]
    }
    own = dict(module.named_parameters())
    assert layer_count(module) == 2
    assert rate[own["classifier.weight"]] == 8.0
    assert rate[own["deberta.encoder.layer.1.output.dense.weight"]] == 8.0
    assert rate[own["deberta.encoder.layer.0.output.dense.weight"]] == 4.0
    assert rate[own["deberta.embeddings.word_embeddings.weight"]] == 2.0
    assert rate[own["deberta.encoder.rel_embeddings.weight"]] == 2.0


def test_biases_and_norms_are_not_decayed(module: PreTrainedModel) -> None:
    groups = parameter_groups(module, TrainingSpec(weight_decay=0.1))
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in module.named_parameters():
        assert (id(parameter) in decayed) == (not name.endswith("bias") and "Norm" not in name)


def test_frozen_layers(module: PreTrainedModel) -> None:
    freeze(module, 1)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(depth(name, 2) >= 2 for name in trained)
    with pytest.raises(UsageError, match=r"`training\.frozen_layers` is 3, but the model has 2"):
        freeze(module, 3)


def test_the_next_optimiser_begins_anew_on_the_same_memory(module: PreTrainedModel) -> None:
    memory, training = OptimizerMemory(), TrainingSpec(learning_rate=1e-3)
    first = memory.build(module, training)
    addresses = {name: t.data_ptr() for name, t in state_tensors(module, first).items()}
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    first.step()
    assert any(float(t.abs().sum()) for t in state_tensors(module, first).values())
    second = memory.build(module, training)
    state = state_tensors(module, second)
    assert {name: tensor.data_ptr() for name, tensor in state.items()} == addresses
    assert not any(float(tensor.abs().sum()) for tensor in state.values())
    assert second.param_groups[0]["fused"]


def test_a_reused_optimiser_steps_like_a_new_one(module: PreTrainedModel) -> None:
    memory, training = OptimizerMemory(), TrainingSpec(learning_rate=1e-2, weight_decay=0.1)
    start = [parameter.detach().clone() for parameter in module.parameters()]

    def run(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), start, strict=True):
                parameter.copy_(value)
        torch.manual_seed(0)
        for _ in range(3):
            for parameter in module.parameters():
                parameter.grad = torch.randn_like(parameter)
            set_learning_rate(optimizer, 1e-2)
            optimizer.step()
        return [parameter.detach().clone() for parameter in module.parameters()]

    run(memory.build(module, training))
    ours = run(memory.build(module, training))
    plain = run(
        torch.optim.AdamW(
            [dict(group, share=1.0) for group in parameter_groups(module, training)], lr=1e-2
        )
    )
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
