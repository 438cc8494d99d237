"""The model around fused kernels is the same function; the kernels are stood in for by the plain
torch code of the same package, which needs no card."""

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import PreTrainedModel

from criteria_cli.training.attention import Inputs, ReferenceForward
from criteria_cli.training.compiled import CompiledRest
from criteria_cli.training.fused import FusedForward, fits_kernels

from .test_attention import VARIANTS, batch, deberta
from .test_compiled import difference

pytest.importorskip("disentangled_flash")
from disentangled_flash._torch import TorchTrainingDisentangledSelfAttention

CLOSE = 1e-6
"""Theirs does not round the root of the scale to float32, as transformers does."""


class Plain(TorchTrainingDisentangledSelfAttention):
    def forward(self, hidden: Any, *rest: Any, **named: Any) -> Any:
        with torch.inference_mode(False):  # of the tables that only this stand-in needs
            self.position_plan_cache.dense(hidden.shape[1], hidden.device)
        return super().forward(hidden, *rest, **named)


def fused(module: PreTrainedModel) -> FusedForward:
    return FusedForward(module, kernels=Plain)


def wide(**changes: Any) -> PreTrainedModel:
    """With heads as the kernels want them."""
    return deberta(hidden_size=64, pooler_hidden_size=64, **changes)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("padded", [False, True])
def test_logits_and_gradients_are_transformers(variant: str, padded: bool) -> None:
    changes = VARIANTS[variant]
    module = wide(**changes)
    assert fits_kernels(module)
    forward = fused(module)
    for rows, width in ((3, 40), (1, 8), (5, 96)):
        inputs = batch(rows, width, padded=padded, types=bool(changes.get("type_vocab_size")))
        assert difference(module, forward, inputs) < CLOSE, (rows, width)


def test_the_model_keeps_its_parameters_and_gets_no_others() -> None:
    module = wide()
    before = dict(module.named_parameters())
    forward = fused(module)
    assert dict(module.named_parameters()) == before
    with torch.no_grad():  # a fold begins by copying weights back in place
        for parameter in module.parameters():
            parameter.mul_(1.5)
    inputs = batch(3, 24, padded=True)
    torch.testing.assert_close(
        forward(inputs), ReferenceForward(module)(inputs), rtol=CLOSE, atol=CLOSE
    )


def test_making_it_draws_no_random_number() -> None:
    module = wide()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fused(module)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_trial_changes_reaches_the_kernels() -> None:
    module = wide()
    forward = fused(module)
    own = [layer.attention.self for layer in module.deberta.encoder.layer]
    for part in own:
        part.dropout.p, part.pos_dropout.p = 0.25, 0.125
    module.eval()
    forward(batch(2, 8, padded=False))
    for kernel in forward._kernels:
        assert not kernel.training
        assert kernel.attention_probability_dropout == 0.25
        assert kernel.pos_dropout.p == 0.125
    module.train()
    forward(batch(2, 8, padded=False))
    assert all(kernel.training for kernel in forward._kernels)


def test_lengths_known_to_the_host_are_used_and_padding_changes_nothing() -> None:
    module = wide().eval()
    forward = fused(module)
    inputs = batch(4, 32, padded=True)
    assert inputs.mask is not None
    lengths = tuple(inputs.mask.sum(1).tolist())
    told = Inputs(inputs.ids, inputs.mask, None, lengths)
    assert torch.equal(forward(told), forward(inputs))
    wider = Inputs(
        torch.nn.functional.pad(inputs.ids, (0, 16)),
        torch.nn.functional.pad(inputs.mask, (0, 16)),
        None,
        lengths,
    )
    torch.testing.assert_close(forward(wider), forward(told), rtol=1e-12, atol=1e-12)


def test_training_follows_scoring_in_inference_mode() -> None:
    module = wide()
    forward = fused(module)
    inputs = batch(3, 40, padded=True)
    with torch.inference_mode():
        forward(inputs)
    forward(inputs).sum().backward()


def test_adapters_and_other_head_sizes_are_not_served() -> None:
    assert not fits_kernels(deberta(hidden_size=48, pooler_hidden_size=48))
    module = wide()
    own = module.deberta.encoder.layer[0].attention.self
    own.query_proj = torch.nn.Sequential(own.query_proj)
    assert not fits_kernels(module)


def test_the_rest_of_the_layers_is_compiled_once() -> None:
    torch._dynamo.reset()
    module = wide(num_hidden_layers=4)
    counter = CompileCounterWithBackend("eager")
    rest = CompiledRest(backend=counter)
    forward = FusedForward(module, rest=rest, kernels=Plain)
    assert difference(module, forward, batch(3, 40, padded=True)) < CLOSE
    known = counter.frame_count
    assert known <= 2  # of tokens, and of the first tokens alone
    for rows, width in ((2, 24), (5, 96), (4, 8)):
        assert difference(module, forward, batch(rows, width, padded=True)) < CLOSE
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.1
    forward(batch(3, 24, padded=True)).sum().backward()
    assert counter.frame_count == known
    assert not rest.failed
    torch._dynamo.reset()
