"""A fold's validation pairs, scored after each epoch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from criteria_cli.training.attention import moved
from criteria_cli.training.batches import MicroBatch
from criteria_cli.training.examples import Examples
from criteria_cli.training.metrics import Metrics, measure
from criteria_cli.training.replay import score_all
from criteria_cli.training.resident import ResidentModel
from criteria_cli.training.tokens import Integers


class Validation:
    """Some pairs that a model is judged by.

    Args:
        pairs: their indices in `examples`.
    """

    def __init__(self, model: ResidentModel, examples: Examples, pairs: Integers) -> None:
        self._model = model
        self._examples = examples
        self._set = examples.set_of(np.asarray(pairs, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._set)

    def score(self, alive: Callable[[], None] = lambda: None) -> NDArray[np.float32]:
        """Log-odds (pairs,) under the weights as they are, sorted by length on the way.

        Args:
            alive: called after each micro-batch.
        """
        model = self._model
        model.module.eval()
        scores = torch.zeros(len(self), dtype=torch.float32, device=model.device.torch_device)

        def score(micro_batch: MicroBatch) -> None:
            rows = moved(torch.from_numpy(micro_batch.rows), scores.device)
            scores[rows] = model.scores(self._set.tokens(micro_batch))
            alive()

        with torch.inference_mode(), model.device.autocast(model.precision):
            score_all(
                self._set.lengths,
                score,
                planner=model.planner,
                device=model.device,
                rows=self._set.rows,
            )
        return scores.cpu().numpy()

    def measure(self, scores: NDArray[np.float32]) -> Metrics:
        """What scores (pairs,) are worth."""
        pairs, examples = self._set.pairs, self._examples
        return measure(scores, examples.label[pairs], examples.criterion[pairs], examples.criteria)
