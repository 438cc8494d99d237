"""One model that stays on its device from trial to trial.

Weights are read once. A fold begins by copying the pristine weights back in place, so every fold
and trial starts from the same ones whatever ran before, and nothing of an earlier fold is held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from criteria_cli.study.spec import Hyperparameters
from criteria_cli.training.attention import Forward, Inputs, choose_forward
from criteria_cli.training.batches import Planner
from criteria_cli.training.devices import Device, Precision
from criteria_cli.training.model import Encoder, apply_model_settings
from criteria_cli.training.optimizer import OptimizerMemory, freeze
from criteria_cli.training.token_pairs import TokenBatch


class WeightCopy:
    """The weights of a model, kept on the host: pinned memory where a card is to fill it."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        pinned = bool(parameters) and parameters[0].is_cuda
        self._copies = [
            torch.empty_like(tensor, device="cpu", pin_memory=pinned) for tensor in parameters
        ]
        self._parameters = list(parameters)

    @torch.no_grad()
    def take(self) -> None:
        """Copy the weights as they are now."""
        torch._foreach_copy_(self._copies, self._parameters, non_blocking=True)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the copied weights back in place."""
        torch._foreach_copy_(self._parameters, self._copies, non_blocking=True)

    def tensors(self) -> list[Tensor]:
        """The copies themselves, in the order of the parameters."""
        if self._parameters and self._parameters[0].is_cuda:
            torch.cuda.synchronize(self._parameters[0].device)  # the copy may be under way
        return self._copies


class ResidentModel:
    """A model on a device, with what every fold reuses.

    Args:
        encoder: with the checkpoint's weights and its head; owned by this object from now on.
        device: where it goes.
        planner: of micro-batches under the device's limits.
        precision: of its matrix products.
        attention: `auto` or `reference`.
    """

    def __init__(
        self,
        encoder: Encoder,
        device: Device,
        planner: Planner,
        precision: Precision,
        attention: str = "auto",
    ) -> None:
        self.encoder = encoder
        self.device = device
        self.planner = planner
        self.precision: Precision = precision
        self.module = encoder.module
        nn.Module.to(self.module, device.torch_device)
        self._fastest = choose_forward(encoder.module, "auto")
        self.forward: Forward = choose_forward(encoder.module, attention)
        self.parameters = dict(self.module.named_parameters())
        self._trainable = [p for p in self.parameters.values() if p.requires_grad]
        self._pristine = WeightCopy(self._trainable)  # of the others, none ever changes
        self._pristine.take()
        self._best: WeightCopy | None = None
        self._memory = OptimizerMemory()

    def begin(self, hyperparameters: Hyperparameters) -> torch.optim.AdamW:
        """Make it the model that a fold starts from, and an optimiser for it.

        Raises:
            UsageError: a setting that this architecture has no place for.
        """
        self._pristine.restore()
        apply_model_settings(self.encoder, hyperparameters.model)
        self.forward = self._fastest
        if hyperparameters.model.attention == "reference":
            self.forward = choose_forward(self.module, "reference")
        for parameter in self._trainable:
            parameter.requires_grad_(True)
            parameter.grad = None
        freeze(self.module, hyperparameters.training.frozen_layers)
        return self._memory.build(self.module, hyperparameters.training)

    def run_by(self, forward: Forward) -> None:
        """Run the model by `forward` from now on, where a study leaves the choice open."""
        self.forward = self._fastest = forward

    def keep_best(self) -> None:
        """Copy the weights as the best so far, over the ones copied before."""
        if self._best is None:
            self._best = WeightCopy(list(self.parameters.values()))
        self._best.take()

    def best_state(self) -> Mapping[str, Tensor]:
        """The weights that `keep_best` copied last, by name. Overwritten by the next fold."""
        assert self._best is not None, "no best weights were kept"
        return dict(zip(self.parameters, self._best.tensors(), strict=True))

    def inputs(self, batch: TokenBatch) -> Inputs:
        """A batch on the device; the copy does not wait for the device's work."""
        return Inputs.of(batch, self.device.torch_device)

    def scores(self, batch: TokenBatch) -> Tensor:
        """Log-odds (rows,) of the positive class, float32. Runs under the caller's autocast."""
        scores = self.encoder.scores(self.forward(self.inputs(batch)))
        return scores if batch.windows is None else batch.windows.pool(scores)
