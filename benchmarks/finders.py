"""Ways to find the largest micro-batch that trains, each on the same device with the same step.

The step is one optimiser step of two micro-batches at full length: forward, loss, backward,
gradients held over both, clipping, fused AdamW. Lightning and accelerate run as their users call
them, with their defaults; what differs is only which sizes they try, and how.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast
from unittest import mock

import numpy as np
import torch

from criteria_cli.study.spec import ModelSpec, TrainingSpec
from criteria_cli.training.batches import Planner
from criteria_cli.training.devices import Device, Precision
from criteria_cli.training.measuring import MICRO_BATCHES, OPTIMIZER_STEPS, StepMeter
from criteria_cli.training.memory import whole_batches
from criteria_cli.training.model import Encoder, ScoringModel, encoder_from_config
from criteria_cli.training.resident import ResidentModel
from criteria_cli.training.token_pairs import TokenBatch


@dataclass(frozen=True)
class Subject:
    """What is to be trained, and where."""

    model: ModelSpec
    precision: Precision
    open: Callable[[], Device]
    """A device as a fresh process would find it."""
    cap: int
    """Bytes that the process may hold; the same for every finder."""


@dataclass(frozen=True)
class Found:
    """What a finder answered, and what it took."""

    found: int
    tried: int
    """Sizes that were run."""
    micro_batches: int
    """Forward passes begun."""
    ooms: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def step_meter(subject: Subject, device: Device, scoring: ScoringModel) -> StepMeter:
    """Measures single sizes of the step, under the cap.

    Args:
        scoring: made on the host: on a simulated card in use, its making would be charged.
    """
    training = TrainingSpec(precision=subject.precision)
    vocabulary = int(scoring.module.config.vocab_size)
    meter = StepMeter(scoring, device, subject.precision, subject.model, training, vocabulary)
    meter.set_cap(subject.cap)
    return meter


def lightning(subject: Subject, mode: str) -> Found:
    """`Tuner.scale_batch_size` in mode `power` or `binsearch`."""
    import lightning.pytorch as pl
    from lightning.pytorch.tuner import Tuner

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    device = subject.open()
    with _running(subject, device), tempfile.TemporaryDirectory() as folder:
        step = _Step(subject, device)
        trainer = pl.Trainer(
            accelerator="gpu" if device.kind == "cuda" else "cpu",
            devices=[device.index] if device.kind == "cuda" else 1,
            precision="bf16-mixed" if subject.precision == "bf16" else "32-true",
            accumulate_grad_batches=MICRO_BATCHES,
            gradient_clip_val=1.0,
            default_root_dir=folder,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = _lightning_module(step)
        started = time.perf_counter()
        found = Tuner(trainer).scale_batch_size(module, mode=mode)  # type: ignore[arg-type]
        seconds = time.perf_counter() - started
        return Found(found or 0, module.tried, step.passes, step.ooms, seconds)


def accelerate(subject: Subject) -> Found:
    """`find_executable_batch_size` around a short training, from its default of 128."""
    from accelerate.utils import find_executable_batch_size

    device = subject.open()
    tried = 0
    with _running(subject, device):
        step = _Step(subject, device)

        @find_executable_batch_size
        def train(batch_size: int) -> int:
            nonlocal tried
            tried += 1
            optimizer = step.optimizer()  # inside, as its documentation has it
            for _ in range(OPTIMIZER_STEPS):
                optimizer.zero_grad()
                for _ in range(MICRO_BATCHES):
                    with device.autocast(subject.precision):
                        loss = step.loss(step.rows(batch_size)) / MICRO_BATCHES
                    loss.backward()
                torch.nn.utils.clip_grad_norm_(step.model.module.parameters(), 1.0)
                optimizer.step()
            device.synchronize()
            return batch_size

        started = time.perf_counter()
        found = train()
        return Found(found, tried, step.passes, step.ooms, time.perf_counter() - started)


class _Step:
    """The model and its loss, as a plain loop would write them."""

    def __init__(self, subject: Subject, device: Device) -> None:
        encoder = cast(Encoder, encoder_from_config(subject.model))
        self.model = ResidentModel(
            encoder, device, Planner(whole_batches(subject.model.max_length)), subject.precision
        )
        self.model.module.train()
        self.passes = 0
        self._device, self._length = device, subject.model.max_length
        self._vocabulary = int(encoder.module.config.vocab_size)
        self._random = np.random.default_rng(0)
        device.reset_peak()

    @property
    def ooms(self) -> int:
        return self._device.peak().ooms

    def optimizer(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.model.module.parameters(), lr=1e-5, fused=True)

    def rows(self, count: int) -> Rows:
        ids = self._random.integers(0, self._vocabulary, (count, self._length), dtype=np.int64)
        return Rows(TokenBatch(ids, np.full(count, self._length, dtype=np.int64), None))

    def loss(self, rows: Rows) -> torch.Tensor:
        self.passes += 1
        scores = self.model.scores(rows.tokens)
        return torch.nn.functional.binary_cross_entropy_with_logits(scores, torch.ones_like(scores))


class Rows:
    """A micro-batch on the host, which no library moves or copies by itself."""

    def __init__(self, tokens: TokenBatch) -> None:
        self.tokens = tokens


def _lightning_module(step: _Step) -> Any:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.batch_size = 1  # what the finder changes
            self.tried = 0
            self.module = step.model.module

        def on_train_start(self) -> None:
            self.tried += 1

        def training_step(self, batch: Rows, _: int) -> torch.Tensor:
            return step.loss(batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return step.optimizer()

        def train_dataloader(self) -> Any:
            # numbers stand for rows: all are of full length
            return torch.utils.data.DataLoader(
                range(100_000),  # type: ignore[arg-type]
                batch_size=self.batch_size,
                collate_fn=lambda numbers: step.rows(len(numbers)),
            )

    return Module()


@contextlib.contextmanager
def _running(subject: Subject, device: Device) -> Iterator[None]:
    """Work on the device, under the cap; what the libraries tell the driver reaches the device."""
    with contextlib.ExitStack() as stack:
        if device.kind != "cuda":
            stack.enter_context(_as_a_card(device))
        device.set_cap(subject.cap)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(device.use())
        yield
    gc.collect()
    device.empty_cache()


@contextlib.contextmanager
def _as_a_card(device: Device) -> Iterator[None]:
    """`torch.cuda.empty_cache()` empties the simulated card's cache, and accelerate calls it."""

    def empty_cache() -> None:
        # on a card, the threads that run a backward pass let go of what a failed one has left
        torch.ones((), requires_grad=True).backward()
        device.empty_cache()

    with (
        mock.patch.object(torch.cuda, "empty_cache", empty_cache),
        mock.patch("accelerate.utils.memory.is_cuda_available", return_value=True),
    ):
        yield
