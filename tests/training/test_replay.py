"""A batch that runs out of memory anywhere ends as if it had not (traps 19, 21, 23)."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from interrupted_batches import (
    LENGTHS,
    LONGEST,
    MICRO_BATCHES,
    FailAt,
    Injected,
    Setting,
    difference,
    interrupted,
    leaves,
    limits,
)
from torch import Tensor

from criteria_cli.errors import TrialFailed
from criteria_cli.training.batches import MicroBatch, Planner
from criteria_cli.training.devices import CpuDevice
from criteria_cli.training.memory import Bound, Curve, Limits, whole_batches
from criteria_cli.training.replay import Attempt, is_out_of_memory, run_batch, score_all
from criteria_cli.training.simulated import SimulatedCard

LEAVES = leaves(Setting(rows=3))


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Each replay collects garbage; what was there before the tests need not be looked at."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(rows=3)


@pytest.fixture(scope="module")
def undisturbed(setting: Setting) -> Tensor:
    setting.anew()
    final = setting.run()
    assert len(setting.attempts[0]) == MICRO_BATCHES
    return final


@pytest.mark.parametrize("micro_batch", range(1, MICRO_BATCHES + 1))
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("leaf", LEAVES)
def test_an_error_in_any_module_changes_nothing(
    setting: Setting, leaf: str, direction: str, micro_batch: int, undisturbed: Tensor
) -> None:
    final = interrupted(setting, leaf, direction, micro_batch)
    assert difference(final, undisturbed) <= 1e-12
    for parameter in setting.step.parameters:
        assert int(setting.optimizer.state[parameter]["step"]) == 1


@pytest.mark.parametrize("attention", ["auto", "reference"])
def test_an_error_at_any_operation_changes_nothing(attention: str) -> None:
    setting = Setting(rows=3, attention=attention)
    setting.run()  # what is made once per length is made
    setting.anew()
    with FailAt(0) as whole:
        true = setting.run()
    assert whole.seen > 300
    # the last tenth is the optimiser's step, which is not repeated
    for at in range(1, int(0.9 * whole.seen), whole.seen // 12):
        setting.anew()
        with FailAt(at):
            final = setting.run()
        assert len(setting.attempts) == 2, at
        assert difference(final, true) <= 1e-12, at


def test_the_random_state_is_put_back() -> None:
    setting = Setting(rows=8, dropout=0.1)
    module = setting.model.module.get_submodule(LEAVES[-1])
    states: list[Tensor] = []
    setting.at_start = lambda: states.append(torch.get_rng_state())
    module.register_full_backward_hook(Injected(1))
    setting.run()
    assert len(states) == 2
    assert torch.equal(*states)


@pytest.mark.parametrize("attention", ["auto", "reference"])
def test_nothing_of_the_failed_attempt_is_held(attention: str) -> None:
    """Wherever it failed: a backward pass leaves nodes that it had not reached."""
    card = SimulatedCard(2**30)
    with card.use():
        setting = Setting(rows=8, device=card, double=False, attention=attention)
        held: list[int] = []

        def note() -> None:
            card.reset_peak()
            held.append(card.peak().requested)

        setting.at_start = note
        with FailAt(0) as whole:
            setting.run()
        for at in range(1, int(0.9 * whole.seen), whole.seen // 12):
            setting.anew()
            held.clear()
            with FailAt(at):
                setting.run()
            assert len(held) == 2, at
            assert held[1] - held[0] <= 4096, at


def test_a_card_that_is_too_small_trains_the_same_batch() -> None:
    """No plan knew of the limit: the errors are real ones of the simulated allocator."""
    roomy, tight = (SimulatedCard(64 * 2**30, scale=64) for _ in range(2))
    finals = []
    for card in (roomy, tight):
        with card.use():
            setting = Setting(rows=8, device=card, double=False)
            if card is tight:
                card.empty_cache()
                card.set_cap((card.reserved_bytes() + roomy.peak().reserved) // 2)
            finals.append(setting.run())
    assert len(setting.attempts) > 1
    assert tight.peak().ooms == len(setting.attempts) - 1
    assert difference(finals[1], finals[0]) < 1e-6


def test_one_row_fewer_first_then_half() -> None:
    planner = Planner(limits(8))
    lengths = np.full(8, 32)
    sizes: list[int] = []

    def accumulate(attempt: Attempt) -> None:
        sizes.append(max(len(part) for part in attempt))
        for part in attempt:
            if len(part) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    run_batch(lengths, accumulate, planner=planner, device=CpuDevice(), parameters=[])
    assert sizes == [8, 4, 2]
    assert planner.limits.max_rows(32) == 2
    assert all(len(part) <= 2 for part in planner.plan(lengths))


def test_only_the_shape_that_failed_is_lowered() -> None:
    by_bytes = Bound(Curve(token=1.0), Curve(base=10.0, token=1.0), 256.0, 1, LONGEST)
    planner = Planner(Limits(whole_batches(LONGEST).model, 1 << 40, by_bytes, by_bytes))
    lengths = np.array([32] * 8 + [8] * 8)

    def accumulate(attempt: Attempt) -> None:
        for part in attempt:
            if part.length == 32 and len(part) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    run_batch(lengths, accumulate, planner=planner, device=CpuDevice(), parameters=[])
    assert planner.limits.max_rows(32) <= 3
    assert planner.limits.max_rows(8) >= 4 * planner.limits.max_rows(32)
    assert planner.limits.evaluate == by_bytes


def test_a_single_pair_that_does_not_fit_fails_the_trial() -> None:
    """Not pruned: the sampler must not learn bad parameters from a small card."""

    def accumulate(attempt: Attempt) -> None:
        for _ in attempt:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    planner = Planner(limits(8))
    with pytest.raises(TrialFailed) as raised:
        run_batch(LENGTHS, accumulate, planner=planner, device=CpuDevice(), parameters=[])
    assert raised.value.cause == "cuda_oom"
    assert "one pair of 32 tokens does not fit" in raised.value.message
    assert "smaller model" in raised.value.hint
    assert raised.value.__context__ is None


def test_other_errors_are_left_alone() -> None:
    def accumulate(attempt: Attempt) -> None:
        raise ValueError("not about memory")

    planner = Planner(limits(8))
    with pytest.raises(ValueError, match="not about memory"):
        run_batch(LENGTHS, accumulate, planner=planner, device=CpuDevice(), parameters=[])
    assert planner.limits.max_rows(32) == 8


def test_scoring_survives_and_scores_each_once() -> None:
    planner = Planner(limits(6))
    lengths = np.arange(1, 33).repeat(2)
    scored = np.zeros(len(lengths), dtype=int)
    errors = 0

    def score(part: MicroBatch) -> None:
        nonlocal errors
        if part.length > 16 and len(part) > 2:
            errors += 1
            raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
        scored[part.rows] += 1

    score_all(lengths, score, planner=planner, device=CpuDevice())
    assert errors >= 1
    assert (scored == 1).all()
    assert planner.limits.train.max_rows(32) == 6
    with pytest.raises(TrialFailed, match="one pair of"):
        score_all(lengths, always_full, planner=planner, device=CpuDevice())


def always_full(_: MicroBatch) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


MESSAGES: Sequence[str] = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 8 GiB",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in ...",
    "MPS backend out of memory (MPS allocated: 9.05 GB)",
    "HIP out of memory. Tried to allocate 2.00 GiB",
    "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory",
    "CUDA driver error: device not ready",
)


@pytest.mark.parametrize("message", MESSAGES)
def test_every_way_of_saying_it(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))
    wrapped = ValueError("in a backward hook")
    wrapped.__cause__ = RuntimeError(message)
    assert is_out_of_memory(wrapped)


def test_classes_say_it_too() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("?"))
    assert is_out_of_memory(MemoryError())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"),
        ValueError("out of memory"),
        KeyError("CUDA out of memory"),
    ],
)
def test_other_troubles_are_not_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_a_circle_of_causes_ends() -> None:
    one, other = ValueError("a"), ValueError("b")
    one.__context__, other.__context__ = other, one
    assert not is_out_of_memory(one)
    gc.collect()
