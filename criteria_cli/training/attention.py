"""How a model is run on a batch: the checkpoint's own code, or an exact faster one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DebertaV2ForSequenceClassification, PreTrainedModel

from criteria_cli.training.disentangled import (
    DisentangledAttention,
    distance_rows,
    joined,
    score_scale,
)
from criteria_cli.training.masks import dropped
from criteria_cli.training.token_pairs import TokenBatch


@dataclass(frozen=True)
class Inputs:
    """A batch of pairs on a device."""

    ids: Tensor
    """(rows, width) int64."""
    mask: Tensor | None
    """(rows, width) bool, True at tokens; None where no row is padded."""
    types: Tensor | None
    """(rows, width) int64 token types, or None."""
    lengths: tuple[int, ...] | None = None
    """(rows,) tokens of each row, where the host knows them."""

    @classmethod
    def of(cls, batch: TokenBatch, device: torch.device) -> Inputs:
        """Copy a batch to `device`."""

        def move(array: object) -> Tensor:
            return moved(torch.as_tensor(array), device)

        width = batch.ids.shape[1]
        mask = None
        if batch.padded:
            mask = torch.arange(width, device=device) < move(batch.lengths).unsqueeze(1)
        types = None if batch.types is None else move(batch.types)
        return cls(move(batch.ids), mask, types, tuple(batch.lengths.tolist()))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy from the host to `device`. A card copies from pinned memory while it computes, and the
    host goes on: it assembles the next micro-batch meanwhile."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Forward(Protocol):
    """Inputs to logits (rows, outputs)."""

    def __call__(self, inputs: Inputs) -> Tensor: ...


def choose_forward(module: PreTrainedModel, attention: str) -> Forward:
    """The way to run `module`: `reference` is the checkpoint's own code."""
    if attention == "auto" and DebertaForward.serves(module):
        return DebertaForward(module)
    return ReferenceForward(module)


class ReferenceForward:
    """The model's own forward."""

    def __init__(self, module: PreTrainedModel) -> None:
        self._module = module
        self._takes_types = getattr(module.config, "type_vocab_size", 0) > 1

    def __call__(self, inputs: Inputs) -> Tensor:
        mask = torch.ones_like(inputs.ids) if inputs.mask is None else inputs.mask.long()
        types = {"token_type_ids": inputs.types} if self._takes_types else {}
        logits = self._module(input_ids=inputs.ids, attention_mask=mask, **types).logits
        assert isinstance(logits, Tensor)
        return logits


@dataclass(frozen=True)
class _Distances:
    """The relative positions of a length."""

    used: slice
    """Rows of the relative embeddings that occur."""
    descending: Tensor
    """(2 length - 1,) the row, counted from the first used, of distances length - 1 down."""
    ascending: Tensor
    first: Tensor
    """(length,) the row of distances 0, -1, and so on: those of the first token."""


class DebertaForward:
    """DeBERTa-v2 and v3 with a classification head: the same parameters, the same function.

    One projection for queries, keys and values; relative positions projected once per micro-batch
    (`disentangled.py`); of the last layer only the first token, which alone the head reads.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        assert isinstance(module, DebertaV2ForSequenceClassification)
        self._module = module
        self._encoder: Any = module.deberta.encoder
        self._distances: dict[int, _Distances] = {}

    @staticmethod
    def serves(module: nn.Module) -> bool:
        """Whether this is a model that the rewrite computes exactly."""
        if type(module) is not DebertaV2ForSequenceClassification:
            return False
        config, encoder = module.config, module.deberta.encoder
        return (
            bool(config.relative_attention)
            and set(config.pos_att_type or ()) == {"c2p", "p2c"}
            and module.deberta.z_steps <= 1
            and (encoder.conv is None or len(encoder.layer) > 1)
        )

    def __call__(self, inputs: Inputs) -> Tensor:
        module, encoder = self._module, self._encoder
        width = inputs.ids.shape[1]
        hidden = module.deberta.embeddings(
            input_ids=inputs.ids, token_type_ids=inputs.types, mask=inputs.mask
        )
        bias = None
        if inputs.mask is not None:
            bias = torch.zeros_like(inputs.mask, dtype=hidden.dtype)
            bias.masked_fill_(~inputs.mask, -math.inf)
        distances = self._of(width, hidden.device)
        positions = self._positions(distances)
        embedded = hidden
        for number, layer in enumerate(encoder.layer, 1):
            last = number == len(encoder.layer)
            attend = _first_attention if last else _attention
            found = attend(layer.attention.self, hidden, positions, distances, bias)
            hidden = feed(layer, found, hidden[:, :1] if last else hidden)
            if number == 1 and encoder.conv is not None:
                hidden = encoder.conv(embedded, hidden, _ones_or(inputs))
        pooled = module.dropout(module.pooler(hidden))
        logits = module.classifier(pooled)
        assert isinstance(logits, Tensor)
        return logits

    def _positions(self, distances: _Distances) -> Tensor:
        """(used, hidden) relative embeddings as layers see them."""
        encoder = self._encoder
        used: Tensor = encoder.rel_embeddings.weight[distances.used]
        return encoder.LayerNorm(used) if "layer_norm" in encoder.norm_rel_ebd else used

    def _of(self, length: int, device: torch.device) -> _Distances:
        if length not in self._distances:
            # not made in inference mode, where the first batch of this length may be
            with torch.inference_mode(False):
                self._distances[length] = _distances(self._encoder, length, device)
        return self._distances[length]


def without_adapters(module: nn.Module) -> bool:
    """Whether this is a model that `DebertaForward` serves, with projections that are their weights
    alone: adapters have a forward and a dropout of their own."""
    if not DebertaForward.serves(module):
        return False
    deberta: Any = module.deberta
    own = deberta.encoder.layer[0].attention.self
    return all(type(part) is nn.Linear for part in (own.query_proj, own.key_proj, own.value_proj))


def _distances(encoder: Any, length: int, device: torch.device) -> _Distances:
    row = distance_rows(encoder, torch.arange(length - 1, -length, -1, device=device))
    low, high = int(row.min()), int(row.max())
    row = row - low
    return _Distances(
        used=slice(low, high + 1),
        descending=row,
        ascending=row.flip(0),
        first=row[length - 1 :],
    )


def _attention(
    part: Any, hidden: Tensor, positions: Tensor, distances: _Distances, bias: Tensor | None
) -> Tensor:
    """(rows, width, hidden) what every token gathers from all."""
    rows, width, _ = hidden.shape
    heads, size = part.num_attention_heads, part.attention_head_size
    scale = score_scale(size)
    together = joined(hidden, (part.query_proj, scale), (part.key_proj, 1), (part.value_proj, 1))
    # (3, heads, rows, width, size)
    together = together.view(rows, width, 3, heads, size).permute(2, 3, 0, 1, 4).contiguous()
    key_positions, query_positions = _projected(part, positions, scale)
    found = DisentangledAttention.apply(  # type: ignore[no-untyped-call]
        *together.unbind(),
        key_positions.index_select(0, distances.descending),
        query_positions.index_select(0, distances.ascending),
        None if bias is None else bias.to(together.dtype),
        part.dropout.p if part.training else 0.0,
    )
    assert isinstance(found, Tensor)
    return found.permute(1, 2, 0, 3).reshape(rows, width, heads * size)


def _first_attention(
    part: Any, hidden: Tensor, positions: Tensor, distances: _Distances, bias: Tensor | None
) -> Tensor:
    """(rows, 1, hidden) what the first token gathers from all."""
    rows, width, _ = hidden.shape
    heads, size = part.num_attention_heads, part.attention_head_size
    scale = score_scale(size)
    key_positions, query_positions = _projected(part, positions, scale)
    query = (part.query_proj(hidden[:, 0]) * scale).view(rows, heads, size)
    together = joined(hidden, (part.key_proj, 1), (part.value_proj, 1))
    key, value = together.view(rows, width, 2, heads, size).unbind(2)
    content = torch.einsum("bhd,bjhd->bhj", query, key)
    to_positions = torch.einsum(
        "bhd,jhd->bhj", query, key_positions.index_select(0, distances.first)
    )
    from_positions = (key * query_positions.index_select(0, distances.first)).sum(-1)
    scores = content + to_positions + from_positions.transpose(1, 2)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)[:, None]
    weights = functional.softmax(scores, -1)
    weights = dropped(weights, part.dropout.p, training=part.training).to(value.dtype)
    return torch.einsum("bhj,bjhd->bhd", weights, value).reshape(rows, 1, heads * size)


def _projected(part: Any, positions: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(used, heads, size) positions as keys and, scaled, as queries."""
    positions = dropped(positions, part.pos_dropout.p, training=part.training)
    if part.share_att_key:
        as_key, as_query = part.key_proj(positions), part.query_proj(positions)
    else:
        as_key, as_query = part.pos_key_proj(positions), part.pos_query_proj(positions)
    shape = (-1, part.num_attention_heads, part.attention_head_size)
    return as_key.view(shape), (as_query * scale).view(shape)


def feed(layer: Any, found: Tensor, hidden: Tensor) -> Tensor:
    """What follows attention in a layer: two residual blocks."""
    hidden = _residual(layer.attention.output, found, hidden)
    return _residual(layer.output, layer.intermediate(hidden), hidden)


def _residual(part: Any, values: Tensor, hidden: Tensor) -> Tensor:
    values = dropped(part.dense(values), part.dropout.p, training=part.training)
    normalised: Tensor = part.LayerNorm(values + hidden)
    return normalised


def _ones_or(inputs: Inputs) -> Tensor:
    if inputs.mask is None:
        return torch.ones_like(inputs.ids)
    return inputs.mask.long()
