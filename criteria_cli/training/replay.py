"""A batch that ran out of memory, again, in smaller micro-batches.

Only forward and backward are repeated. The optimiser's step stays outside: an error in the middle
of it would leave parameters half updated, which is why its state is allocated beforehand. The
answer is given after the `except` block has ended, for the error's traceback keeps the tensors of
the failed step alive.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from criteria_cli.errors import TrialFailed
from criteria_cli.training.batches import MicroBatch, Planner
from criteria_cli.training.devices import Device

Argument = TypeVar("Argument")
Result = TypeVar("Result")

OUT_OF_MEMORY = (
    "out of memory",  # torch, the driver, ROCm's HIP, Apple's MPS
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",  # what cuDNN says when no workspace is left
    "can't allocate memory",  # torch's CPU allocator
    "device not ready",  # expandable segments under WSL
)
"""What libraries say when memory runs out without raising torch's own class."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error, or one that it was raised from, is for lack of memory."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(current, RuntimeError):
            text = str(current).lower()
            if any(words.lower() in text for words in OUT_OF_MEMORY):
                return True
        waiting += [current.__cause__, current.__context__]
    return False


class Attempt:
    """A plan to be iterated over once, which remembers the micro-batch begun last."""

    def __init__(self, plan: Sequence[MicroBatch]) -> None:
        self.plan = tuple(plan)
        self.begun = self.plan[0]

    def __iter__(self) -> Iterator[MicroBatch]:
        for micro_batch in self.plan:
            self.begun = micro_batch
            yield micro_batch

    def __len__(self) -> int:
        return len(self.plan)


def run_batch(
    lengths: NDArray[np.integer],
    accumulate: Callable[[Attempt], Result],
    *,
    planner: Planner,
    device: Device,
    parameters: Iterable[torch.nn.Parameter],
    plan: Sequence[MicroBatch] | None = None,
    rows: NDArray[np.integer] | None = None,
) -> Result:
    """Forward and backward of one batch, in smaller micro-batches each time memory runs out.

    Args:
        lengths: tokens of each example of the batch, shape (batch,).
        accumulate: iterates over the micro-batches and adds to the gradients. Whatever else it
            changes must start anew with each call. Its result is returned.
        planner: plans the batch; its limits are lowered below a shape that ran out.
        parameters: their gradients are dropped before a repetition, so a batch must begin
            without any.
        plan: the planner's own plan of this batch, where it was made ahead.
        rows: rows that each example takes on the device, where it is more than one.

    Raises:
        TrialFailed: `cuda_oom`, when one example alone does not fit.
    """
    random_state = device.random_state()
    attempt = Attempt(planner.plan(lengths, rows) if plan is None else plan)
    parameters = list(parameters)
    failures = 0
    while True:
        results = _unless_out_of_memory(accumulate, attempt)
        if results:
            return results[0]
        failures += 1
        drop_gradients(parameters, device)
        _lower(planner, device, attempt.begun, failures, evaluation=False)
        device.set_random_state(random_state)
        attempt = Attempt(planner.plan(lengths, rows))


def score_all(
    lengths: NDArray[np.integer],
    score: Callable[[MicroBatch], None],
    *,
    planner: Planner,
    device: Device,
    rows: NDArray[np.integer] | None = None,
) -> None:
    """Score a whole set in evaluation micro-batches, split further where memory runs out.

    Args:
        lengths: tokens of each example of the set, shape (examples,).
        score: scores one micro-batch; called once with success for each example.
        rows: rows that each example takes on the device, where it is more than one.

    Raises:
        TrialFailed: `cuda_oom`, when one example alone does not fit.
    """
    waiting = planner.plan_evaluation(lengths, rows)[::-1]
    failures = 0
    while waiting:
        micro_batch = waiting.pop()
        if _unless_out_of_memory(score, micro_batch):
            continue
        failures += 1
        gc.collect()
        device.empty_cache()
        _lower(planner, device, micro_batch, failures, evaluation=True)
        left = np.concatenate([micro_batch.rows, *(later.rows for later in waiting[::-1])])
        waiting = [
            MicroBatch(left[again.rows], again.length, again.windows)
            for again in planner.plan_evaluation(
                lengths[left], None if rows is None else rows[left]
            )
        ][::-1]


def drop_gradients(parameters: Iterable[torch.Tensor], device: Device) -> None:
    """Let go of everything that an unfinished forward or backward pass has left."""
    for parameter in parameters:
        parameter.grad = None
    # the nodes that a failed backward pass had not reached stay in this thread's queue, with all
    # that they saved, until the next pass on it
    torch.ones((), requires_grad=True).backward()
    gc.collect()
    device.empty_cache()


def _unless_out_of_memory(
    work: Callable[[Argument], Result], argument: Argument
) -> tuple[Result, ...]:
    """The work's one result, or nothing if memory ran out. No error outlives this call."""
    try:
        return (work(argument),)
    except Exception as error:  # libraries raise classes of their own for this
        if not is_out_of_memory(error):
            raise
    return ()


def _lower(
    planner: Planner, device: Device, failed: MicroBatch, failures: int, *, evaluation: bool
) -> None:
    """One row fewer the first time, for the model is rarely far off; then half."""
    if len(failed) == 1:
        raise _does_not_fit(planner, device, failed.length)
    rows = failed.device_rows - 1 if failures == 1 else failed.device_rows // 2
    # where others took what the cap had counted on, the model was not wrong
    as_before = device.free_bytes() + device.reserved_bytes() >= planner.limits.cap
    planner.admit(rows, failed.length, evaluation=evaluation, remember=as_before)


def _does_not_fit(planner: Planner, device: Device, length: int) -> TrialFailed:
    limits = planner.limits
    shorter = limits.longest(below=length)
    advice = "use a smaller model, or a device with more memory"
    if shorter:
        advice = f"set `model.max_length` to {shorter} or less, {advice}"
    others = device.used_by_others()
    if device.kind == "cuda" and others > device.total_bytes() // 4:
        advice = f"free the {others / 2**30:.1f} GiB that others hold on it, or {advice}"
    return TrialFailed(
        "cuda_oom",
        f"one pair of {length} tokens does not fit in {device.total_bytes() / 2**30:.1f} GiB "
        f"of {device.name}",
        hint=advice,
    )
