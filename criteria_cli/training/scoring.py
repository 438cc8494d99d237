"""Scores of pairs under a resident model's weights as they are, in full precision.

What is reported and exported is scored as the model directory will score it: in float32, whatever
precision training ran in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from criteria_cli.training.batches import MicroBatch
from criteria_cli.training.examples import Examples, ExampleSet
from criteria_cli.training.replay import score_all
from criteria_cli.training.resident import ResidentModel
from criteria_cli.training.tokens import tokenize


def score_pairs(model: ResidentModel, examples: ExampleSet) -> NDArray[np.float32]:
    """Log-odds (pairs,) of the positive class.

    Raises:
        TrialFailed: `cuda_oom`, where one pair alone does not fit.
    """
    model.module.eval()
    scores = np.zeros(len(examples), dtype=np.float32)

    def score(micro_batch: MicroBatch) -> None:
        scores[micro_batch.rows] = model.scores(examples.tokens(micro_batch)).cpu().numpy()

    with torch.no_grad():
        score_all(
            examples.lengths,
            score,
            planner=model.planner,
            device=model.device,
            rows=examples.rows,
        )
    return scores


def score_texts(
    model: ResidentModel, examples: Examples, texts: Sequence[str], criterion: int
) -> NDArray[np.float32]:
    """Log-odds (texts,) of other posts for one criterion of the corpus."""
    tokens = examples.tokens.with_posts(tokenize(model.encoder.tokenizer, texts))
    number = len(texts)
    these = Examples(
        tokens=tokens,
        post=np.arange(number),
        criterion=np.full(number, criterion),
        label=np.zeros(number, dtype=np.int8),
        criteria=examples.criteria,
    )
    return score_pairs(model, these.set_of(np.arange(number)))


@torch.no_grad()
def put_weights(model: ResidentModel, weights: Mapping[str, Tensor]) -> None:
    """Put weights, by parameter name, in place of the model's."""
    for name, parameter in model.parameters.items():
        parameter.copy_(weights[name])
