"""The loss of a pair from its score, the log-odds of the positive class.

With `s` the score and `p = sigmoid(s)`, two-class cross-entropy over two logits is exactly binary
cross-entropy on their difference, so one form serves every head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from criteria_cli.study.spec import TrainingSpec


@dataclass(frozen=True)
class PairLoss:
    """A loss per pair. The mean over a batch is the sum of these over the batch's pairs divided
    by the sum of their weights, as torch's own weighted cross-entropy has it."""

    positive_weight: float
    negative_weight: float
    label_smoothing: float = 0.0
    focal_gamma: float = 0.0

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Weighted losses of `scores` (rows,) against `labels` (rows,) of 0 and 1, in float32
        or wider."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        labels = labels.to(scores.dtype)
        targets = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        if self.focal_gamma:
            losses = _focal(scores, targets, self.focal_gamma)
        else:
            losses = functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
        return losses * self.weights(labels)

    def weights(self, labels: Tensor) -> Tensor:
        """The weight of each pair (rows,), from its label, 0 or 1."""
        return labels * self.positive_weight + (1 - labels) * self.negative_weight


def _focal(scores: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Focal loss for soft targets: each class's log-loss times (1 - its probability) ** gamma.

    Lin et al., "Focal Loss for Dense Object Detection", 2017.
    """
    log_positive, log_negative = functional.logsigmoid(scores), functional.logsigmoid(-scores)
    positive = -((gamma * log_negative).exp() * log_positive)
    negative = -((gamma * log_positive).exp() * log_negative)
    return targets * positive + (1 - targets) * negative


def build_loss(training: TrainingSpec, positives: int, negatives: int) -> PairLoss:
    """The loss that `training` asks for, on a training fold with that many pairs of each label.

    `class_balanced` weighs a class by the inverse of its effective number of pairs,
    (1 - beta ** n) / (1 - beta), scaled so that the two weights add up to 2 (Cui et al.,
    "Class-Balanced Loss Based on Effective Number of Samples", 2019).
    """
    positive_weight, negative_weight = training.positive_weight, 1.0
    if training.loss == "class_balanced":
        beta = training.class_balanced_beta
        balanced = [_inverse_effective(beta, count) for count in (positives, negatives)]
        positive_weight *= 2 * balanced[0] / sum(balanced)
        negative_weight *= 2 * balanced[1] / sum(balanced)
    return PairLoss(
        positive_weight=positive_weight,
        negative_weight=negative_weight,
        label_smoothing=training.label_smoothing,
        focal_gamma=training.focal_gamma if training.loss == "focal" else 0.0,
    )


def _inverse_effective(beta: float, count: int) -> float:
    return (1 - beta) / (1 - beta ** max(count, 1))
