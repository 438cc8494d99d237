"""How one score per pair is read off a classification head, whatever head a checkpoint has.

The score is always the log-odds of the positive class, so its sign is the decision at probability
one half and its sigmoid the probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PretrainedConfig

from criteria_cli.errors import UsageError
from criteria_cli.study.spec import ModelSpec

HeadKind = Literal["two_logits", "one_logit", "entailment"]
_LABELS: dict[HeadKind, tuple[str, ...]] = {
    "two_logits": ("absent", "present"),
    "one_logit": ("present",),
}


@dataclass(frozen=True)
class Head:
    """What a classifier's logits mean.

    `two_logits`: the positive one less the other. `one_logit`: the logit itself, as rerankers
    give it. `entailment`: log p(entailment) - log p(any other class) of an NLI classifier.
    """

    kind: HeadKind
    outputs: int
    """Logits of a pair."""
    positive: int
    """Which logit stands for the positive class."""
    new: bool
    """Made for this study with random weights, not kept from the checkpoint."""

    def scores(self, logits: Tensor) -> Tensor:
        """Log-odds (rows,), in float32 or wider, of logits (rows, outputs)."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.kind == "one_logit":
            return logits[:, 0]
        others = [column for column in range(self.outputs) if column != self.positive]
        return logits[:, self.positive] - torch.logsumexp(logits[:, others], dim=1)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes, by logit; None where the checkpoint's own stay."""
        return _LABELS[self.kind] if self.new else None


def choose_head(config: PretrainedConfig, has_head: bool, spec: ModelSpec) -> Head:
    """The head that `model.head` asks for on a checkpoint with this configuration.

    Raises:
        UsageError: the checkpoint's classes fit no head, or not the one asked for.
    """
    labels = int(config.num_labels or 0) if has_head else 0
    entailment = _entailment_label(config) if has_head else None
    kind = _natural_kind(labels, entailment, spec.name) if spec.head == "auto" else spec.head
    if kind == "entailment":
        if entailment is None or labels < 2:
            raise UsageError(
                f"model `{spec.name}` has no class named `entailment`, "
                'which `model.head = "entailment"` needs',
                code="model.head",
            )
        return Head(kind, labels, entailment, new=False)
    outputs = 1 if kind == "one_logit" else 2
    kept = labels == outputs
    positive = entailment if kept and entailment is not None else outputs - 1
    return Head(kind, outputs, positive, new=not kept)


def _natural_kind(labels: int, entailment: int | None, name: str) -> HeadKind:
    if labels == 1:
        return "one_logit"
    if labels in (0, 2):
        return "two_logits"
    if entailment is not None:
        return "entailment"
    raise UsageError(
        f"model `{name}` has {labels} labels, criteria needs 1 or 2, or an entailment class",
        code="model.head",
        hint='`model.head = "two_logits"` gives it a new head',
    )


def _entailment_label(config: PretrainedConfig) -> int | None:
    names = {str(label).lower(): int(index) for index, label in (config.id2label or {}).items()}
    return names.get("entailment", names.get("entail"))
