"""The losses of an epoch's steps, which stay on the device until somebody asks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class EpochLosses:
    """A loss per optimiser step of an epoch.

    Args:
        steps: of the epoch.
        batch_size: pairs behind each but the last.
        pairs: of the epoch.
        device: where the losses are.
    """

    def __init__(self, steps: int, batch_size: int, pairs: int, device: torch.device) -> None:
        self._losses = torch.zeros(steps, device=device)
        self._sizes = np.full(steps, batch_size)
        self._sizes[-1:] = pairs - (steps - 1) * batch_size
        self._finite = 0

    def begin(self) -> None:
        """Of a new epoch."""
        self._finite = 0

    def put(self, step: int, loss: Tensor) -> None:
        self._losses[step] = loss

    def restore(self, losses: Tensor) -> None:
        """Those of the first steps, from a checkpoint."""
        self._losses[: len(losses)].copy_(losses)

    def until(self, step: int) -> Tensor:
        """(step,) those so far, where they are."""
        return self._losses[:step]

    def first_bad(self, step: int) -> int | None:
        """The first of the steps so far whose loss is not a number. Waits for the device."""
        bad = np.flatnonzero(~np.isfinite(self._read(step)[self._finite :]))
        if bad.size:
            return self._finite + int(bad[0])
        self._finite = step
        return None

    def mean(self, step: int) -> float:
        """Over the pairs of the steps so far. Waits for the device."""
        return float(np.average(self._read(step), weights=self._sizes[:step]))

    def _read(self, step: int) -> NDArray[np.float32]:
        return self._losses[:step].cpu().numpy()
