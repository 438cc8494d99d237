"""Which exact way to run DeBERTa is the fastest on this card, found by trying each of them there.

A candidate must first prove itself on the card (`attention_checks.py`). Only then is it timed,
forward and backward at the study's longest input. What cannot be run, or is not exact, is left out
with a line that says why.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from criteria_cli.study.durable import private_folder, read_json, write_json
from criteria_cli.study.spec import ModelSpec
from criteria_cli.training import kept
from criteria_cli.training.attention import DebertaForward, Forward, ReferenceForward
from criteria_cli.training.attention_checks import (
    Candidates,
    made_inputs,
    objections,
    reason_of,
    scores_of,
)
from criteria_cli.training.compiled import CompiledForward, CompiledRest
from criteria_cli.training.fused import FusedForward, kernels_version
from criteria_cli.training.replay import drop_gradients, is_out_of_memory
from criteria_cli.training.resident import ResidentModel

_log = logging.getLogger(__name__)

REPEATS = 5
"""Timed steps of each candidate; the median counts."""
COMPILE_FROM_S = 3600.0
"""Of training in a study: a shorter one is over before compiling has paid. On an H100, compiling
and checking the smallest model took 42 s (`benchmarks/results/gpu.json`)."""
MOST_ROWS = 32
"""Of a timed step, or fewer where fewer fit."""


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
            refused[name] = reason_of(error)
        drop_gradients(model.parameters.values(), model.device)
    name = min(seconds, key=seconds.__getitem__, default=plain)
    for other, reason in refused.items():
        _log.warning("attention `%s` is left out: %s", other, reason)
    figures = ", ".join(f"{other} {1e3 * value:.1f} ms" for other, value in seconds.items())
    _log.info("attention runs as `%s` (%s a step)", name, figures)
    return Choice(name, seconds, refused)


def _seconds(
    model: ResidentModel, forward: Forward, length: int, clock: Callable[[], float]
) -> float:
    """The median time of a forward and a backward pass, after one that is not timed."""
    rows = max(1, min(MOST_ROWS, model.planner.limits.max_rows(length)))
    # a micro-batch is sorted by length before it is cut, so little of it is padding
    inputs = made_inputs(model, rows=rows, length=length, shortest=0.9)
    taken = []
    model.module.train()
    for _ in range(REPEATS + 1):
        model.device.synchronize()
        started = clock()
        scores_of(model, forward, inputs).sum().backward()
        model.device.synchronize()
        taken.append(clock() - started)
    return statistics.median(taken[1:])


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
