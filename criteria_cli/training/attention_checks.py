"""Whether a way to run DeBERTa is exact on this device: the same logits and gradients, and the same
dropout of attention.

Exact means no further from float32 than transformers' own code in the same precision, with a little
slack. A way that drops no attention probabilities computes the same without dropout, and is found
out by how far the logits of equal rows lie apart with it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from criteria_cli.training.attention import Forward, Inputs, ReferenceForward
from criteria_cli.training.compiled import first_line
from criteria_cli.training.replay import drop_gradients, is_out_of_memory
from criteria_cli.training.resident import ResidentModel

_log = logging.getLogger(__name__)

Candidates = Mapping[str, Callable[[], Forward]]
SLACK = 1e-4
"""How far, relative to its size, a result may be from float32 where transformers' is not at all;
beyond twice transformers' own distance, that is."""


def objections(model: ResidentModel, offered: Candidates) -> dict[str, str]:
    """Why candidates may not run this model here; those that may are not named."""
    module, device = model.module, model.device
    reference = ReferenceForward(module)
    found: dict[str, str] = {}
    inputs = made_inputs(model, rows=3, length=192, shortest=0.1)
    same = made_inputs(model, rows=1, length=16)
    many = Inputs(same.ids.expand(64, -1).contiguous(), None, same.types)
    module.train()
    with _rates(module, 0.0):
        exact = _result(model, reference, inputs, plain=True)
        bound = _distance(_result(model, reference, inputs), exact)
    with _rates(module, 0.0, attention=0.5):
        spread = _spread(model, reference, many)
    for name, make in offered.items():
        started = time.perf_counter()
        try:
            forward = make()
            with _rates(module, 0.0):
                distance = _distance(_result(model, forward, inputs), exact)
            with _rates(module, 0.0, attention=0.5):
                own_spread = _spread(model, forward, many)
        except Exception as error:  # of any library: then it is no candidate
            found[name] = reason_of(error)
        else:
            if getattr(forward, "failed", False):
                found[name] = "torch.compile failed"
            elif not distance <= 2 * bound + SLACK:
                found[name] = f"it is not exact, its relative error is {distance:.2g}"
            elif not 0.5 * spread < own_spread < 2 * spread:
                found[name] = "its attention dropout acts otherwise"
        drop_gradients(model.parameters.values(), device)
        _log.info("attention `%s` was checked in %.0f s", name, time.perf_counter() - started)
    return found


def _spread(model: ResidentModel, forward: Forward, same: Inputs) -> float:
    """How far logits of equal rows lie apart. Gradients stay on: without them a compiler would make
    graphs that training has no use for."""
    return float(scores_of(model, forward, same).detach().std(0).mean())


def made_inputs(model: ResidentModel, *, rows: int, length: int, shortest: float = 1.0) -> Inputs:
    """Random tokens, the first row full and the last one this share of it."""
    config, device = model.module.config, model.device.torch_device
    longest = getattr(config, "max_position_embeddings", length)
    length = min(length, longest if getattr(config, "position_biased_input", True) else length)
    generator = torch.Generator().manual_seed(20250)
    ids = torch.randint(1, config.vocab_size, (rows, length), generator=generator)
    mask, lengths = None, None
    if shortest < 1:
        lengths = torch.linspace(length, max(1, shortest * length), rows).long()
        mask = torch.arange(length) < lengths.unsqueeze(1)
    types = torch.zeros_like(ids) if getattr(config, "type_vocab_size", 0) else None
    moved = [None if part is None else part.to(device) for part in (ids, mask, types)]
    assert moved[0] is not None
    known = None if lengths is None else tuple(lengths.tolist())
    return Inputs(moved[0], moved[1], moved[2], known)


def scores_of(
    model: ResidentModel, forward: Forward, inputs: Inputs, *, plain: bool = False
) -> Tensor:
    """Logits; `plain` in float32, whatever the study's precision."""
    if plain:
        return forward(inputs)
    with model.device.autocast(model.precision):
        return forward(inputs).float()


def _result(
    model: ResidentModel, forward: Forward, inputs: Inputs, *, plain: bool = False
) -> list[Tensor]:
    """Logits and the gradient of each parameter."""
    parameters = [p for p in model.parameters.values() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = None
    precise = torch.get_float32_matmul_precision()
    if plain:
        torch.set_float32_matmul_precision("highest")
    try:
        logits = scores_of(model, forward, inputs, plain=plain)
        (logits * torch.linspace(-1, 1, logits.numel(), device=logits.device).view_as(logits)
         ).sum().backward()  # fmt: skip
    finally:
        torch.set_float32_matmul_precision(precise)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
    return [logits.detach(), *gradients]


def _distance(found: list[Tensor], exact: list[Tensor]) -> float:
    """The larger of the relative differences of logits and of the whole gradient."""
    apart = [_norm(a - b) for a, b in zip(found, exact, strict=True)]
    sizes = [_norm(tensor) for tensor in exact]
    return max(apart[0] / sizes[0], math.hypot(*apart[1:]) / math.hypot(*sizes[1:]))


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


@contextmanager
def _rates(module: nn.Module, rate: float, *, attention: float | None = None) -> Iterator[None]:
    """Every dropout at one rate, that of attention's probabilities at another if given."""
    parts = [(path, part) for path, part in module.named_modules() if isinstance(part, nn.Dropout)]
    before = [part.p for _, part in parts]
    try:
        for path, part in parts:
            own = path.endswith("attention.self.dropout") and attention is not None
            part.p = attention if own and attention is not None else rate
        yield
    finally:
        for (_, part), own_rate in zip(parts, before, strict=True):
            part.p = own_rate


def reason_of(error: Exception) -> str:
    """Why a candidate could not be run, in a few words."""
    return "too little memory" if is_out_of_memory(error) else first_line(error)
