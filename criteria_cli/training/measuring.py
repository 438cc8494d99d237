"""The memory and time of single steps, measured by running them.

`StepMeter` runs exactly what training runs: the resident model, its loss, its optimiser and its
`TrainingStep`, on made-up tokens without padding. What the steps are for is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch

from criteria_cli.study.spec import AugmentationSpec, Hyperparameters, ModelSpec, TrainingSpec
from criteria_cli.training.batches import Planner
from criteria_cli.training.costs import PhaseClock
from criteria_cli.training.devices import Device, Peak, Precision
from criteria_cli.training.losses import build_loss
from criteria_cli.training.memory import whole_batches
from criteria_cli.training.model import Encoder, ScoringModel
from criteria_cli.training.replay import drop_gradients, is_out_of_memory
from criteria_cli.training.resident import ResidentModel
from criteria_cli.training.step import TrainingStep
from criteria_cli.training.token_pairs import TokenBatch

OPTIMIZER_STEPS = 2
"""The first one warms up kernels and workspaces; the second is like every later one."""
MICRO_BATCHES = 2
"""From the second on, gradients are held while activations are made."""


@dataclass(frozen=True)
class Measurement:
    """One measured shape."""

    rows: int
    length: int
    fits: bool
    """No error, no retry of the allocator once warm, and no more reserved than the cap."""
    out_of_memory: bool
    requested: int
    """Peak bytes that tensors asked for in forward and backward; 0 after an error."""
    optimizer: int
    """The same in the optimiser's step; 0 in evaluation."""
    reserved: int
    retries: int
    seconds: float
    """Of one micro-batch, once warm."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Meter(Protocol):
    """Whatever can measure a shape."""

    @property
    def layers(self) -> int:
        """Layers that learn: training keeps the activations of all of them."""
        ...

    def set_cap(self, cap: int) -> None:
        """Hold steps to `cap` bytes."""
        ...

    def resident_bytes(self) -> dict[str, int]:
        """Bytes of parameters, gradients and optimiser state, resident at any step's peak."""
        ...

    def train(self, rows: int, length: int) -> Measurement:
        """Two optimiser steps of two micro-batches."""
        ...

    def evaluate(self, rows: int, length: int) -> Measurement:
        """Two scored micro-batches, with the training state resident."""
        ...


class StepMeter:
    """Measures steps of a model on a device.

    Args:
        model: with weights of any values.
        spec: of the model; its dropout counts.
        training: of the step: loss, frozen layers, clipping.
        vocabulary: token ids are drawn below this.
    """

    def __init__(
        self,
        model: ScoringModel,
        device: Device,
        precision: Precision,
        spec: ModelSpec,
        training: TrainingSpec,
        vocabulary: int,
    ) -> None:
        self.device = device
        self.cap: int | None = None
        planner = Planner(whole_batches(spec.max_length))
        # only its scores are asked for, never its tokenizer
        encoder = cast(Encoder, model)
        self._model = ResidentModel(encoder, device, planner, precision, spec.attention)
        hyperparameters = Hyperparameters(spec, training, AugmentationSpec())
        optimizer = self._model.begin(hyperparameters)
        loss = build_loss(training, 1, 9)
        self._clock = PhaseClock(device.torch_device)
        self._step = TrainingStep(self._model, optimizer, training, loss, self._clock)
        self._vocabulary = vocabulary
        count = getattr(model.module.config, "num_hidden_layers", 1)
        self._layers = max(1, count - training.frozen_layers)
        self._with_types = getattr(model.module.config, "type_vocab_size", 0) > 1
        self._random = np.random.default_rng(0)

    @property
    def layers(self) -> int:
        return self._layers

    def resident_bytes(self) -> dict[str, int]:
        parameters = list(self._model.parameters.values())
        moments = [
            value
            for state in self._step.optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        ]
        held: dict[str, Sequence[torch.Tensor]] = {
            "parameters": parameters,
            "gradients": self._step.parameters,
            "optimizer": moments,
        }
        scale = getattr(self.device, "scale", 1.0)  # of a simulated card
        return {
            name: int(scale * sum(tensor.nbytes for tensor in tensors))
            for name, tensors in held.items()
        }

    def set_cap(self, cap: int) -> None:
        """Bound the device, and call nothing a fit that reserves more."""
        self.cap = cap
        self.device.set_cap(cap)

    def train(self, rows: int, length: int) -> Measurement:
        self._model.module.train()
        return self._measure(rows, length, self._training_steps)

    def evaluate(self, rows: int, length: int) -> Measurement:
        self._model.module.eval()
        return self._measure(rows, length, self._evaluation_steps)

    def _measure(
        self,
        rows: int,
        length: int,
        steps: Callable[[int, int], tuple[Peak, Peak, int, float]],
    ) -> Measurement:
        self._clean()
        out_of_memory = False
        try:
            work, optimizer, retries, seconds = steps(rows, length)
        except Exception as error:  # libraries raise classes of their own for this
            if not is_out_of_memory(error):
                raise
            out_of_memory = True
        if out_of_memory:  # here the error's frames, and what they held, are gone
            reserved = self.device.peak().reserved
            self._clean()
            return Measurement(rows, length, False, True, 0, 0, reserved, 0, 0.0)
        reserved = max(work.reserved, optimizer.reserved)
        within = self.cap is None or reserved <= self.cap
        return Measurement(
            rows=rows,
            length=length,
            fits=within and retries == 0,
            out_of_memory=False,
            requested=work.requested,
            optimizer=optimizer.requested,
            reserved=reserved,
            retries=retries,
            seconds=seconds,
        )

    def _training_steps(self, rows: int, length: int) -> tuple[Peak, Peak, int, float]:
        work, optimizer = _NOTHING, _NOTHING
        seconds = 0.0
        retries = 0
        for _ in range(OPTIMIZER_STEPS):
            batches = [self._batch(rows, length) for _ in range(MICRO_BATCHES)]
            self.device.synchronize()
            self.device.reset_peak()
            started = time.perf_counter()
            self._step.accumulate(batches, rows * MICRO_BATCHES)
            self.device.synchronize()
            seconds = (time.perf_counter() - started) / MICRO_BATCHES
            peak = self.device.peak()
            work, retries = _larger(work, peak), peak.retries
            self.device.reset_peak()
            self._step.update(0.0)
            self.device.synchronize()
            peak = self.device.peak()
            optimizer, retries = _larger(optimizer, peak), retries + peak.retries
        return work, optimizer, retries, seconds

    @torch.inference_mode()
    def _evaluation_steps(self, rows: int, length: int) -> tuple[Peak, Peak, int, float]:
        work = _NOTHING
        seconds = 0.0
        for _ in range(2):
            tokens, _labels = self._batch(rows, length)
            self.device.synchronize()
            self.device.reset_peak()
            started = time.perf_counter()
            with self.device.autocast(self._model.precision):
                self._model.scores(tokens)
            self.device.synchronize()
            seconds = time.perf_counter() - started
            work = _larger(work, self.device.peak())
        return work, _NOTHING, self.device.peak().retries, seconds

    def _batch(self, rows: int, length: int) -> tuple[TokenBatch, torch.Tensor]:
        """Rows without padding: the most that a step of this shape can need."""
        ids = self._random.integers(0, self._vocabulary, (rows, length), dtype=np.int64)
        types = np.zeros_like(ids) if self._with_types else None
        lengths = np.full(rows, length, dtype=np.int64)
        labels = torch.from_numpy(self._random.integers(0, 2, rows).astype(np.float32))
        return TokenBatch(ids, lengths, types), labels

    def _clean(self) -> None:
        drop_gradients(self._step.parameters, self.device)
        self.device.reset_peak()


_NOTHING = Peak(0, 0, 0, 0, 0)


def _larger(one: Peak, other: Peak) -> Peak:
    return Peak(
        requested=max(one.requested, other.requested),
        allocated=max(one.allocated, other.allocated),
        reserved=max(one.reserved, other.reserved),
        retries=other.retries,
        ooms=one.ooms + other.ooms,
    )
