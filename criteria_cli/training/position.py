"""Where a fold stands, saved as often as is worth it and taken up again after a crash."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from criteria_cli.study.trial import EpochReport
from criteria_cli.training.checkpoint import Checkpoints
from criteria_cli.training.optimizer import state_tensors
from criteria_cli.training.resident import ResidentModel
from criteria_cli.training.step import TrainingStep

CHECKPOINT_S = 600.0
"""Seconds after which an epoch that is still running is saved."""
SAVE_SHARE = 0.1
"""At the end of an epoch a checkpoint is left out only where writing one takes more than this
share of the time since the last, and more than a second."""


@dataclass
class Position:
    """Where a fold stands; with the tensors, all that a checkpoint holds."""

    epoch: int = 1
    """The epoch to train, or that is being trained."""
    step: int = 0
    """Optimiser steps done in it."""
    best_score: float = -1.0
    best_ranking: float = -1.0
    """Average precision at the best epoch: of equal scores, the better ranking is the better."""
    best_epoch: int = 0
    history: list[EpochReport] = field(default_factory=list)
    costs: dict[str, float] = field(default_factory=dict)
    pairs: int = 0
    """Pairs trained on so far, and their tokens with and without padding."""
    tokens: int = 0
    padded_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Position:
        fields = dict(value)
        history = [EpochReport(**report) for report in fields.pop("history")]
        return cls(history=history, **fields)


class Saver:
    """The checkpoints of a fold that is trained.

    Args:
        checkpoints: where they go; None saves nothing and finds nothing.
        keep_best: whether the weights of the best epoch belong to them.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        model: ResidentModel,
        step: TrainingStep,
        *,
        keep_best: bool,
    ) -> None:
        self._checkpoints = checkpoints
        self._model = model
        self._step = step
        self._keep_best = keep_best
        self._saved_at = time.monotonic()
        self._seconds = 0.0

    def due(self) -> bool:
        """Whether an epoch has run for so long that it is saved in the middle."""
        return time.monotonic() - self._saved_at >= CHECKPOINT_S

    def cheap(self) -> bool:
        """Whether saving takes little beside what it would save."""
        since = time.monotonic() - self._saved_at
        return self._seconds <= max(1.0, SAVE_SHARE * since)

    def save(self, position: Position, losses: Tensor, best_scores: NDArray[np.float32]) -> None:
        """Write a checkpoint.

        Args:
            losses: of the steps of this epoch so far.
            best_scores: of the validation pairs at the best epoch.
        """
        if self._checkpoints is None:
            return
        started = time.monotonic()
        self._checkpoints.save(
            position.to_json() | {"scaler": self._step.scaler.state_dict()},
            self._tensors(position)
            | {"losses": losses, "best_scores": torch.from_numpy(best_scores)},
        )
        self._saved_at = time.monotonic()
        self._seconds = self._saved_at - started

    @torch.no_grad()
    def take_up(self) -> tuple[Position, Tensor, NDArray[np.float32]] | None:
        """Put the model and its optimiser where the newest checkpoint left them.

        Returns:
            What `save` was given; None where there is no checkpoint.
        """
        checkpoint = self._checkpoints.load() if self._checkpoints is not None else None
        if checkpoint is None:
            return None
        fields = dict(checkpoint.position)
        self._step.scaler.load_state_dict(fields.pop("scaler"))
        position = Position.from_json(fields)
        if position.best_epoch and self._keep_best:
            for name, parameter in self._model.parameters.items():
                parameter.copy_(checkpoint.tensors[f"best.{name}"])
            self._model.keep_best()
        for name, tensor in self._tensors(position).items():
            if not name.startswith("best."):
                tensor.copy_(checkpoint.tensors[name])
        best_scores = checkpoint.tensors["best_scores"].numpy().copy()
        return position, checkpoint.tensors["losses"], best_scores

    def _tensors(self, position: Position) -> dict[str, Tensor]:
        """Weights and the optimiser's moments, themselves and not copies of them."""
        model = self._model
        weights = {
            f"weights.{name}": parameter
            for name, parameter in model.parameters.items()
            if parameter.requires_grad
        }
        best = {}
        if self._keep_best and position.best_epoch:
            best = {f"best.{name}": value for name, value in model.best_state().items()}
        moments = state_tensors(model.module, self._step.optimizer)
        return weights | best | {f"moments.{name}": value for name, value in moments.items()}
