"""One optimiser step on one batch: what training runs, and what the memory probe measures."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from criteria_cli.study.spec import TrainingSpec
from criteria_cli.training.attention import moved
from criteria_cli.training.costs import PhaseClock
from criteria_cli.training.losses import PairLoss
from criteria_cli.training.optimizer import set_learning_rate, trained_parameters
from criteria_cli.training.resident import ResidentModel
from criteria_cli.training.token_pairs import TokenBatch


class TrainingStep:
    """Forward, backward and update of a resident model.

    Nothing here waits for the device: losses stay on it until somebody asks.
    """

    def __init__(
        self,
        model: ResidentModel,
        optimizer: torch.optim.AdamW,
        training: TrainingSpec,
        loss: PairLoss,
        clock: PhaseClock,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.parameters = list(trained_parameters(optimizer))
        self._loss = loss
        self._max_norm = training.max_grad_norm
        self._clock = clock
        self._device = model.device.torch_device
        self.scaler = torch.amp.GradScaler(self._device.type, enabled=model.precision == "fp16")

    def accumulate(
        self, micro_batches: Iterable[tuple[TokenBatch, Tensor]], weight: float
    ) -> Tensor:
        """Add to the gradients those of the mean loss over a batch.

        Args:
            micro_batches: tokens and labels (rows,) on the host, which together are the batch.
            weight: of all the batch's pairs together (`PairLoss.weights`), however it is split.

        Returns:
            The batch's mean loss, on the device.
        """
        total = torch.zeros((), device=self._device)
        # one context for the batch: weights are cast to its precision once, not per micro-batch
        with self.model.device.autocast(self.model.precision):
            for tokens, labels in micro_batches:
                labels = moved(labels, self._device)
                self._clock.lap("data")
                losses = self._loss(self.model.scores(tokens), labels)
                loss = losses.sum() / weight
                self._clock.lap("forward")
                with torch.autocast(self._device.type, enabled=False):
                    self.scaler.scale(loss).backward()
                total += loss.detach()
                self._clock.lap("backward")
        return total

    def update(self, rate: float) -> None:
        """Clip the gradients, step the optimiser at learning rate `rate` and drop them."""
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters, self._max_norm, foreach=True)
        set_learning_rate(self.optimizer, rate)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._clock.lap("optimizer")
