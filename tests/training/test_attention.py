"""The rewritten DeBERTa is the same function: its own tests hold it against transformers'."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, DebertaV2Config, PreTrainedModel

from criteria_cli.study.spec import ModelSpec
from criteria_cli.training.attention import (
    DebertaForward,
    Inputs,
    ReferenceForward,
    choose_forward,
)
from criteria_cli.training.disentangled import BLOCK, DisentangledAttention
from criteria_cli.training.masks import dropped, keep_mask

# every kind of length: below, at and above the linear buckets, blocks of one size and of two
LENGTHS = [1, 2, 3, 8, 31, 64, 65, BLOCK, BLOCK + 1, 191, 193, 256, 257, 383, 511, 512]
VARIANTS: dict[str, dict[str, Any]] = {
    "v3": {},
    "own position projections": {
        "share_att_key": False,
        "position_biased_input": True,
        "type_vocab_size": 2,
    },
    "convolution": {"conv_kernel_size": 3, "num_hidden_layers": 3},
    "no buckets": {"position_buckets": -1, "norm_rel_ebd": "none"},
    "buckets as many as positions": {"position_buckets": 256},
}


def deberta(**changes: Any) -> PreTrainedModel:
    settings: dict[str, Any] = {
        "vocab_size": 90,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "relative_attention": True,
        "position_buckets": 32,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
        "type_vocab_size": 0,
        "pooler_hidden_size": 16,
        "initializer_range": 0.3,  # so that attention is far from even
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    torch.manual_seed(0)
    config = DebertaV2Config(**(settings | changes))
    module = AutoModelForSequenceClassification.from_config(config)
    assert isinstance(module, PreTrainedModel)
    return module.double().train()


def batch(rows: int, width: int, *, padded: bool, types: bool = False) -> Inputs:
    torch.manual_seed(width)
    ids = torch.randint(1, 90, (rows, width))
    mask = None
    if padded:
        lengths = torch.randint(1, width + 1, (rows,))
        mask = torch.arange(width) < lengths[:, None]
        ids = ids * mask
    return Inputs(ids, mask, torch.randint(0, 2, (rows, width)) if types else None)


def differences(module: PreTrainedModel, inputs: Inputs) -> tuple[float, float]:
    """Largest relative difference of logits, and of any parameter's gradient, to transformers'."""
    weights = torch.randn(len(inputs.ids), 2, dtype=torch.float64)
    results = []
    for forward in (ReferenceForward(module), DebertaForward(module)):
        module.zero_grad()
        logits = forward(inputs)
        (logits * weights).sum().backward()
        gradients = {
            name: parameter.grad.clone()
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }
        results.append((logits.detach(), gradients))
    (theirs, their_gradients), (ours, our_gradients) = results
    assert set(our_gradients) == set(their_gradients)
    size = torch.cat([gradient.flatten() for gradient in their_gradients.values()]).norm()
    worst = max(
        float((our_gradients[name] - gradient).norm() / size)
        for name, gradient in their_gradients.items()
    )
    return float((ours - theirs).abs().max() / theirs.abs().max()), worst


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_equals_transformers_forward_and_backward(variant: str, padded: bool) -> None:
    changes = VARIANTS[variant]
    module = deberta(**changes)
    assert DebertaForward.serves(module)
    for width in LENGTHS:
        inputs = batch(2, width, padded=padded, types=bool(changes.get("type_vocab_size")))
        forward, backward = differences(module, inputs)
        assert forward < 1e-10, width
        assert backward < 1e-10, width


@pytest.mark.chaos
def test_equals_transformers_at_every_length() -> None:
    module = deberta()
    for width in range(1, 513):
        for padded in (False, True):
            assert max(differences(module, batch(2, width, padded=padded))) < 1e-10, width


def test_scores_without_gradients_equal_those_with() -> None:
    module = deberta().eval()
    inputs = batch(3, 70, padded=True)
    forward = DebertaForward(module)
    with torch.inference_mode():
        scored = forward(inputs)
    assert torch.equal(scored, forward(inputs))


def test_padding_a_batch_further_changes_nothing() -> None:
    module = deberta()
    inputs = batch(3, 40, padded=False)
    wider = torch.cat([inputs.ids, torch.zeros(3, 16, dtype=torch.long)], 1)
    mask = torch.arange(56).expand(3, 56) < 40
    forward = DebertaForward(module)
    torch.testing.assert_close(
        forward(Inputs(wider, mask, None)), forward(inputs), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_are_those_of_the_function(dropout: float) -> None:
    """Against finite differences, the dropout mask held still."""
    torch.manual_seed(3)
    heads, rows, length, size = 2, 2, 5, 3
    shapes = [(heads, rows, length, size)] * 3 + [(2 * length - 1, heads, size)] * 2
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    bias = torch.zeros(rows, length, dtype=torch.float64)
    bias[1, 3:] = -torch.inf

    def attend(*tensors: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(11)
        return DisentangledAttention.apply(*tensors, bias, dropout)

    assert torch.autograd.gradcheck(attend, inputs)


def test_dropout_falls_as_often_as_asked_and_keeps_the_mean() -> None:
    values = torch.ones(400, 500)
    torch.manual_seed(0)
    kept = dropped(values, 0.1, training=True)
    share = float((kept == 0).float().mean())
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / values.numel()) ** 0.5
    assert torch.allclose(kept[kept > 0], torch.tensor(1 / 0.9))
    assert abs(float(kept.mean()) - 1) < 0.01
    # neighbours are independent: sixteen bits each, none shared
    mask = keep_mask(values, 0.5).flatten() * 2 - 1
    for step in (1, 2, 3, 4):
        assert abs(float((mask[step:] * mask[:-step]).mean())) < 0.01
    assert dropped(values, 0.1, training=False) is values


def test_dropout_is_drawn_from_torchs_seed_and_falls_on_probabilities() -> None:
    module = deberta(attention_probs_dropout_prob=0.3, hidden_dropout_prob=0.2)
    forward, inputs = DebertaForward(module), batch(2, 20, padded=False)

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return forward(inputs).detach()

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    module.eval()
    assert torch.equal(run(1), run(2))


def test_dropout_has_the_mean_and_spread_of_transformers() -> None:
    """The same distribution of logits over many draws, by its first two moments."""
    module = deberta(attention_probs_dropout_prob=0.3, hidden_dropout_prob=0.1, num_labels=1)
    inputs = batch(1, 12, padded=False)
    many = Inputs(inputs.ids.expand(4000, -1).contiguous(), None, None)
    with torch.no_grad():
        ours, theirs = (f(many)[:, 0] for f in (DebertaForward(module), ReferenceForward(module)))
    error = (ours.std() / len(ours) ** 0.5) * 2**0.5
    # positions' dropout is one draw for all rows in transformers, so means may differ a little more
    assert abs(ours.mean() - theirs.mean()) < 6 * error + 0.1 * ours.std()
    assert 0.9 < float(ours.std() / theirs.std()) < 1.1


def test_bf16_is_as_close_to_float32_as_transformers_is() -> None:
    module = deberta(num_labels=1).float().eval()
    inputs = batch(8, 200, padded=True)
    with torch.no_grad():
        exact = ReferenceForward(module)(inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours, theirs = (f(inputs) for f in (DebertaForward(module), ReferenceForward(module)))
    assert (ours - exact).abs().mean() < 1.5 * (theirs - exact).abs().mean() + 1e-4


def test_adapters_act_as_in_transformers() -> None:
    from criteria_cli.training.adapters import add_adapters

    module = deberta()
    add_adapters(module, ModelSpec(lora=True, lora_targets="all", lora_rank=2))
    torch.manual_seed(5)
    for name, parameter in module.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    module.double()
    assert max(differences(module, batch(2, 40, padded=True))) < 1e-10


@pytest.mark.parametrize(
    "changes",
    [
        {"relative_attention": False},
        {"pos_att_type": ["c2p"]},
        {"conv_kernel_size": 3, "num_hidden_layers": 1},
    ],
    ids=["no relative attention", "one kind of position", "convolution over the only layer"],
)
def test_what_it_does_not_compute_takes_the_reference(changes: dict[str, Any]) -> None:
    assert isinstance(choose_forward(deberta(**changes), "auto"), ReferenceForward)


def test_reference_is_what_the_study_asks_for() -> None:
    module = deberta()
    assert isinstance(choose_forward(module, "auto"), DebertaForward)
    assert isinstance(choose_forward(module, "reference"), ReferenceForward)
