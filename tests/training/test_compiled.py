"""One graph for all batches and trials; where a compiler fails, training goes on without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import PreTrainedModel

from criteria_cli.training import compiled
from criteria_cli.training.attention import DebertaForward, Forward, Inputs, ReferenceForward
from criteria_cli.training.compiled import CompiledForward

from .test_attention import VARIANTS, batch, deberta


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def result(module: PreTrainedModel, forward: Forward, inputs: Inputs) -> list[torch.Tensor]:
    module.zero_grad()
    logits = forward(inputs)
    (
        logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    ).sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in module.parameters() if p.grad is not None)]


def difference(module: PreTrainedModel, forward: Forward, inputs: Inputs) -> float:
    """To transformers', of logits and of the gradient, relative to the size of each."""
    ours, theirs = (result(module, f, inputs) for f in (forward, ReferenceForward(module)))
    size = torch.cat([gradient.flatten() for gradient in theirs[1:]]).norm()
    apart = torch.cat([(a - b).flatten() for a, b in zip(ours[1:], theirs[1:], strict=True)]).norm()
    return max(float((ours[0] - theirs[0]).norm() / theirs[0].norm()), float(apart / size))


def graphs(backend: str = "eager") -> CompileCounterWithBackend:
    """A backend that counts what it compiles."""
    return CompileCounterWithBackend(backend)


@pytest.fixture
def counted() -> tuple[PreTrainedModel, CompiledForward, Callable[[], int]]:
    module = deberta()
    counter = graphs()
    return module, CompiledForward(module, backend=counter), lambda: counter.frame_count


def test_one_graph_serves_all_lengths_rates_and_trials(counted: Any) -> None:
    module, forward, graphs_made = counted
    assert difference(module, forward, batch(3, 40, padded=True)) < 1e-10
    first = graphs_made()
    for rows, width, padded in ((2, 8, False), (5, 72, True), (4, 40, True)):
        assert difference(module, forward, batch(rows, width, padded=padded)) < 1e-10
    for rate in (0.1, 0.35, 0.0):  # what a trial samples
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = rate
        for parameter in module.parameters():
            parameter.grad = None
        forward(batch(3, 24, padded=True)).sum().backward()
    assert graphs_made() == first
    assert not forward.failed


def test_all_layers_share_their_graph() -> None:
    module = deberta(num_hidden_layers=5)
    counter = graphs()
    forward = CompiledForward(module, backend=counter)
    assert difference(module, forward, batch(3, 40, padded=True)) < 1e-10
    assert counter.frame_count == 2  # of all tokens, and of the first alone
    assert not forward.failed


def test_rows_of_one_and_scoring_are_the_only_other_graphs(counted: Any) -> None:
    module, forward, graphs_made = counted
    module.eval()
    with torch.inference_mode():
        for rows, width in ((3, 40), (1, 40)):
            forward(batch(rows, width, padded=True))
        known = graphs_made()
        for rows, width in ((2, 64), (1, 8), (1, 72)):
            inputs = batch(rows, width, padded=True)
            expected = ReferenceForward(module)(inputs)
            torch.testing.assert_close(forward(inputs), expected, rtol=1e-10, atol=1e-12)
    assert graphs_made() == known


def test_dropout_has_the_spread_of_the_rewrites() -> None:
    module = deberta(attention_probs_dropout_prob=0.4, hidden_dropout_prob=0.1, num_labels=1)
    inputs = batch(1, 12, padded=False)
    many = Inputs(inputs.ids.expand(3000, -1).contiguous(), None, None)
    forward = CompiledForward(module, backend="eager")
    with torch.no_grad():
        ours, plain = (f(many)[:, 0] for f in (forward, DebertaForward(module)))
    assert not forward.failed
    assert 0.9 < float(ours.std() / plain.std()) < 1.1


def test_a_failed_compilation_falls_back_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler here\nand much more")

    module = deberta()
    forward, inputs = CompiledForward(module, backend=broken), batch(2, 24, padded=True)
    assert difference(module, forward, inputs) < 1e-10
    assert difference(module, forward, inputs) < 1e-10
    assert forward.failed
    ours = [record for record in caplog.records if record.name == compiled.__name__]
    (line,) = [record.getMessage() for record in ours]
    assert line.startswith("torch.compile failed (")
    assert line.endswith("the model runs without")
    assert "\n" not in line


def test_memory_that_runs_out_is_no_failed_compilation() -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    forward = CompiledForward(deberta(), backend=full)
    with pytest.raises(Exception, match="out of memory"):
        forward(batch(2, 24, padded=False))
    assert not forward.failed


@pytest.mark.chaos
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_through_the_real_compiler(variant: str) -> None:
    """C++ is generated and built, so this takes minutes."""
    changes = VARIANTS[variant]
    module = deberta(**changes)
    counter = graphs("inductor")
    forward = CompiledForward(module, backend=counter)
    types = bool(changes.get("type_vocab_size"))
    for rows, width in ((3, 40), (2, 96), (5, 200)):
        inputs = batch(rows, width, padded=True, types=types)
        assert difference(module, forward, inputs) < 1e-10, (rows, width)
    known = counter.frame_count  # some, for generated code tells short lengths from long ones
    for rows, width in ((2, 24), (4, 48), (3, 128), (7, 184)):
        inputs = batch(rows, width, padded=True, types=types)
        assert difference(module, forward, inputs) < 1e-10, (rows, width)
    assert counter.frame_count == known
    assert not forward.failed
