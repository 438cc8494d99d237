"""Which exact way to run DeBERTa is the fastest on this card, found by trying each of them there.

A candidate must first prove itself on the card: logits and gradients no further from float32 than
transformers' own code in the same precision, and attention dropout that acts as strongly. Only then
is it timed, forward and backward at the study's longest input. What cannot be run, or is not exact,
is left out with a line that says why.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from criteria_cli.study.durable import private_folder, read_json, write_json
from criteria_cli.study.spec import ModelSpec
from criteria_cli.training import kept
from criteria_cli.training.attention import DebertaForward, Forward, Inputs, ReferenceForward
from criteria_cli.training.compiled import CompiledForward, CompiledRest
from criteria_cli.training.fused import FusedForward, kernels_version
from criteria_cli.training.replay import drop_gradients, is_out_of_memory
from criteria_cli.training.resident import ResidentModel

_log = logging.getLogger(__name__)

Candidates = Mapping[str, Callable[[], Forward]]
REPEATS = 5
"""Timed steps of each candidate; the median counts."""
COMPILE_FROM_S = 3600.0
"""Of training in a study: a shorter one is over before compiling has paid. On an H100, compiling
and checking the smallest model took 42 s (`benchmarks/results/gpu.json`)."""
MOST_ROWS = 32
"""Of a timed step, or fewer where fewer fit."""
SLACK = 1e-4
"""How far, relative to its size, a result may be from float32 where transformers' is not at all;
beyond twice transformers' own distance, that is."""


@dataclass(frozen=True)
class Choice:
    """Which candidate runs the model, and what the others were worth."""

    name: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Of a step, by candidate."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why not, by candidate."""
    kernels: str = field(default_factory=kernels_version)
    """The installed version of the fused kernels, or nothing: another one is to be tried anew."""


def candidates(
    model: ResidentModel, spec: ModelSpec, study_seconds: float = math.inf
) -> Candidates:
    """The ways to run this model on its device that are worth trying, the plain one first.

    Args:
        study_seconds: of training in the whole study, at most. A compiler takes minutes.
    """
    module = model.module
    if not DebertaForward.serves(module):
        return {"reference": lambda: ReferenceForward(module)}
    found: dict[str, Callable[[], Forward]] = {"rewrite": lambda: DebertaForward(module)}
    on_a_card = model.device.kind == "cuda"  # on a processor compiled code was slower
    fused = on_a_card and FusedForward.serves(module)
    if fused:
        found["fused"] = lambda: FusedForward(module)
    worth_it = on_a_card and study_seconds >= COMPILE_FROM_S
    if spec.compile is False or not (worth_it or spec.compile is True):
        return found
    if CompiledForward.serves(module):
        found["compiled"] = lambda: CompiledForward(module)
    if fused:
        found["fused_compiled"] = lambda: FusedForward(module, rest=CompiledRest())
    return found


def settle_attention(
    model: ResidentModel,
    spec: ModelSpec,
    *,
    study_seconds: float = math.inf,
    key: str | None = None,
    known: Mapping[str, Any] | None = None,
    learn: Callable[[str, Mapping[str, Any]], None] = lambda *_: None,
) -> Choice:
    """Have the model run in the fastest exact way, trying them where no result is kept.

    Args:
        spec: asks for compilation, forbids it, or leaves it to the measurement.
        study_seconds: of training in the whole study, at most.
        key: of the memory model, under which the result is kept; None keeps nothing.
        known: results as JSON by key, as the store keeps them.
        learn: hears of a new result, for the store.
    """
    offered = candidates(model, spec, study_seconds)
    plain = next(iter(offered))
    if spec.compile is True:
        offered = {name: make for name, make in offered.items() if name.endswith("compiled")}
        if not offered:
            _log.warning("`model.compile` has no effect: only DeBERTa without adapters is compiled")
            return Choice(plain)
    own_key = None if key is None else f"{key[:64]}.attention"
    if list(offered) == [plain]:
        return Choice(plain)
    found = None if own_key is None else _kept(own_key, known, offered, plain)
    if found is None:
        _log.info("trying the ways to run attention here, once for this kind of card")
    choice = found or _chosen(model, offered, spec.max_length, plain)
    if own_key is not None and found is None and choice.seconds:
        learn(own_key, _keep(own_key, choice))
    if choice.name != plain:
        model.run_by(offered[choice.name]())
    elif spec.compile is True:
        _log.warning("`model.compile` is not followed, the model runs as `%s`", plain)
    return choice


def _chosen(model: ResidentModel, offered: Candidates, length: int, plain: str) -> Choice:
    """`choose`, or the plain candidate where memory is too small to compare."""
    try:
        return choose(model, offered, length=length, plain=plain)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    drop_gradients(model.parameters.values(), model.device)
    _log.warning("memory is too small to compare ways of attention, it runs as `%s`", plain)
    return Choice(plain)


def choose(
    model: ResidentModel,
    offered: Candidates,
    *,
    length: int,
    plain: str,
    clock: Callable[[], float] = time.perf_counter,
) -> Choice:
    """The fastest of the candidates that are exact. One alone is not timed.

    Args:
        length: of the timed inputs, in tokens.
        plain: the name of the choice where none is exact.
        clock: seconds.
    """
    refused = objections(model, offered)
    if len(offered) == 1 and not refused:
        return Choice(next(iter(offered)))
    seconds = {}
    for name, make in offered.items():
        if name in refused:
            continue
        try:
            seconds[name] = _seconds(model, make(), length, clock)
        except Exception as error:  # of any library: then it is no candidate
            refused[name] = _reason(error)
        drop_gradients(model.parameters.values(), model.device)
    name = min(seconds, key=seconds.__getitem__, default=plain)
    for other, reason in refused.items():
        _log.warning("attention `%s` is left out: %s", other, reason)
    figures = ", ".join(f"{other} {1e3 * value:.1f} ms" for other, value in seconds.items())
    _log.info("attention runs as `%s` (%s a step)", name, figures)
    return Choice(name, seconds, refused)


def objections(model: ResidentModel, offered: Candidates) -> dict[str, str]:
    """Why candidates may not run this model here; those that may are not named."""
    module, device = model.module, model.device
    reference = ReferenceForward(module)
    found: dict[str, str] = {}
    inputs = _inputs(model, rows=3, length=192, shortest=0.1)
    same = _inputs(model, rows=1, length=16)
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
            found[name] = _reason(error)
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
    return float(_scores(model, forward, same).detach().std(0).mean())


def _inputs(model: ResidentModel, *, rows: int, length: int, shortest: float = 1.0) -> Inputs:
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


def _scores(
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
        logits = _scores(model, forward, inputs, plain=plain)
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


def _seconds(
    model: ResidentModel, forward: Forward, length: int, clock: Callable[[], float]
) -> float:
    """The median time of a forward and a backward pass, after one that is not timed."""
    rows = max(1, min(MOST_ROWS, model.planner.limits.max_rows(length)))
    # a micro-batch is sorted by length before it is cut, so little of it is padding
    inputs = _inputs(model, rows=rows, length=length, shortest=0.9)
    taken = []
    model.module.train()
    for _ in range(REPEATS + 1):
        model.device.synchronize()
        started = clock()
        _scores(model, forward, inputs).sum().backward()
        model.device.synchronize()
        taken.append(clock() - started)
    return statistics.median(taken[1:])


def _reason(error: Exception) -> str:
    if is_out_of_memory(error):
        return "too little memory"
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def _kept(
    key: str, known: Mapping[str, Any] | None, offered: Candidates, plain: str
) -> Choice | None:
    """A result that was kept, if all that is offered now took part in it."""
    for value in ((known or {}).get(key), read_json(kept.folder() / f"{key}.json")):
        if value is None:
            continue
        try:
            choice = Choice(**value)
        except TypeError:
            continue  # written by another version: as good as none
        tried = set(choice.seconds) | set(choice.refused)
        if (
            choice.kernels == kernels_version()
            and set(offered) <= tried
            and (choice.name in offered or choice.name == plain)
        ):
            return choice
    return None


def _keep(key: str, choice: Choice) -> dict[str, Any]:
    content = asdict(choice)
    try:
        private_folder(kept.folder())
        write_json(kept.folder() / f"{key}.json", content)
    except OSError:
        _log.info("the chosen attention is not kept, the folder cannot be written")
    return content
