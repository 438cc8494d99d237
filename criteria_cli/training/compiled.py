"""DeBERTa as one graph for `torch.compile`, which serves every batch and every trial.

A graph is compiled for what it is told is fixed. So whatever differs between batches and trials is
an input of it: sizes are dynamic, padding is always a mask, relative positions are a table, and
dropout rates are numbers beside the data, not attributes of modules, each new value of which would
compile anew. What remains are graphs of training and of scoring, of one row and of many, for sizes
of one are always fixed; a code generator may also tell short inputs from long ones. Training with
another number of frozen layers is a graph of its own.

Attention is composed of operations that a compiler fuses; the rewrite in `disentangled.py` has a
gradient of its own, which it would have to leave alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DebertaV2ForSequenceClassification, PreTrainedModel
from transformers.activations import ACT2FN

from criteria_cli.training.attention import DebertaForward, Forward, Inputs
from criteria_cli.training.disentangled import distance_rows, joined, score_scale
from criteria_cli.training.replay import is_out_of_memory

_log = logging.getLogger(__name__)


class CompiledForward:
    """`DebertaForward` through a compiler; without it from the first time that it fails.

    Compilation happens at the first call of each kind, inside a training step: that is where it
    can fail, and where the step must go on.

    Args:
        backend: of `torch.compile`: its name, or a function.
    """

    def __init__(self, module: PreTrainedModel, backend: str | Callable[..., Any] = "inductor"):
        assert isinstance(module, DebertaV2ForSequenceClassification)
        self._module = module
        self._plain: Forward = DebertaForward(module)
        self._graph = torch.compile(_logits, backend=backend, dynamic=True)
        self._tables: dict[int, Tensor] = {}
        self._rates: tuple[tuple[float, ...], Tensor] | None = None
        self.failed = False
        """Whether a compilation failed, and the model runs without."""

    @staticmethod
    def serves(module: nn.Module) -> bool:
        """Whether this is a model whose graph serves all trials: adapters have a dropout of their
        own."""
        if not DebertaForward.serves(module):
            return False
        assert isinstance(module, DebertaV2ForSequenceClassification)
        layer: Any = module.deberta.encoder.layer[0]
        own = layer.attention.self
        return all(
            type(part) is nn.Linear for part in (own.query_proj, own.key_proj, own.value_proj)
        )

    def __call__(self, inputs: Inputs) -> Tensor:
        if self.failed:
            return self._plain(inputs)
        try:
            return self._compiled(inputs)
        except Exception as error:  # of compilers there are many, and so are their errors
            if is_out_of_memory(error):
                raise
            self.failed = True
            _log.warning("torch.compile failed (%s), the model runs without", _first_line(error))
        return self._plain(inputs)

    def _compiled(self, inputs: Inputs) -> Tensor:
        mask = inputs.mask
        if mask is None:
            mask = torch.ones_like(inputs.ids, dtype=torch.bool)
        table = self._table(inputs.ids.shape[1], inputs.ids.device)
        rates = self._rates_on(inputs.ids.device)
        module = self._module
        logits = self._graph(module, inputs.ids, mask, inputs.types, table, rates, module.training)
        assert isinstance(logits, Tensor)
        return logits

    def _table(self, length: int, device: torch.device) -> Tensor:
        """(length, length) the row of the relative embeddings for query i and key j."""
        if length not in self._tables:
            with torch.inference_mode(False):
                place = torch.arange(length, device=device)
                distance = place.unsqueeze(1) - place
                self._tables[length] = distance_rows(self._module.deberta.encoder, distance)
        return self._tables[length]

    def _rates_on(self, device: torch.device) -> Tensor:
        """(5,) dropout rates as they are set now; see `_logits`."""
        module = self._module
        layer: Any = module.deberta.encoder.layer[0]
        rates = (
            module.deberta.embeddings.dropout.p,
            layer.attention.self.dropout.p,
            layer.attention.self.pos_dropout.p,
            module.pooler.dropout.p,
            module.dropout.p,
        )
        if self._rates is None or self._rates[0] != rates:
            with torch.inference_mode(False):
                self._rates = (rates, torch.tensor(rates, device=device))
        return self._rates[1]


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def _logits(
    module: Any,
    ids: Tensor,
    mask: Tensor,
    types: Tensor | None,
    table: Tensor,
    rates: Tensor,
    training: bool,
) -> Tensor:
    """Logits (rows, outputs).

    Args:
        ids, mask, types: (rows, width), as in `Inputs`, with a mask in any case.
        table: (width, width) rows of the relative embeddings.
        rates: (5,) of hidden states, attention, positions, pooler and head.
    """
    hidden_rate, attention_rate, position_rate, pooler_rate, head_rate = rates.unbind()
    encoder = module.deberta.encoder
    hidden = _embedded(module.deberta.embeddings, ids, mask, types)
    hidden = embedded = _dropped(hidden, hidden_rate, training)
    positions = encoder.rel_embeddings.weight
    if "layer_norm" in encoder.norm_rel_ebd:
        positions = encoder.LayerNorm(positions)
    last = len(encoder.layer) - 1
    for number, layer in enumerate(encoder.layer):
        asking = hidden[:, :1] if number == last else hidden  # the head reads the first token
        rows = table[:1] if number == last else table
        part = layer.attention.self
        own = _dropped(positions, position_rate, training)
        scores, value = _scores(part, hidden, asking, own, rows)
        scores = scores.masked_fill(~mask[:, None, None], -math.inf)
        weights = _dropped(functional.softmax(scores, -1), attention_rate, training)
        found = torch.matmul(weights.to(value.dtype), value).transpose(1, 2).flatten(2)
        asking = _residual(layer.attention.output, found, asking, hidden_rate, training)
        inner = layer.intermediate(asking)
        hidden = _residual(layer.output, inner, asking, hidden_rate, training)
        if number == 0 and encoder.conv is not None:
            hidden = _convolved(encoder.conv, embedded, hidden, mask, hidden_rate, training)
    pooler = module.pooler
    pooled = pooler.dense(_dropped(hidden[:, 0], pooler_rate, training))
    pooled = ACT2FN[pooler.config.pooler_hidden_act](pooled)
    logits: Tensor = module.classifier(_dropped(pooled, head_rate, training))
    return logits


def _embedded(part: Any, ids: Tensor, mask: Tensor, types: Tensor | None) -> Tensor:
    embeddings = part.word_embeddings(ids)
    if part.position_biased_input:
        embeddings = embeddings + part.position_embeddings(part.position_ids[:, : ids.shape[1]])
    if part.token_type_embeddings is not None:
        embeddings = embeddings + part.token_type_embeddings(
            torch.zeros_like(ids) if types is None else types
        )
    if part.embed_proj is not None:
        embeddings = part.embed_proj(embeddings)
    normalised: Tensor = part.LayerNorm(embeddings)
    return normalised * mask.unsqueeze(2).to(normalised.dtype)


def _scores(
    part: Any, hidden: Tensor, asking: Tensor, positions: Tensor, table: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores (rows, heads, asking, width) before the softmax, and values (rows, heads, width,
    size)."""
    heads, size = part.num_attention_heads, part.attention_head_size
    scale = score_scale(size)

    def by_head(values: Tensor) -> Tensor:
        apart: Tensor = values.unflatten(-1, (heads, size))
        return apart.transpose(-2, -3)

    if asking is hidden:
        together = joined(
            hidden, (part.query_proj, scale), (part.key_proj, 1), (part.value_proj, 1)
        )
        query, key, value = map(by_head, together.chunk(3, -1))
    else:
        query = by_head(part.query_proj(asking) * scale)
        together = joined(hidden, (part.key_proj, 1), (part.value_proj, 1))
        key, value = map(by_head, together.chunk(2, -1))
    of_key, of_query = (
        (part.key_proj, part.query_proj)
        if part.share_att_key
        else (part.pos_key_proj, part.pos_query_proj)
    )
    as_key, as_query = by_head(of_key(positions)), by_head(of_query(positions) * scale)
    shape = (*query.shape[:3], key.shape[2])
    to_positions = torch.matmul(query, as_key.transpose(1, 2)).gather(3, table.expand(shape))
    from_positions = torch.matmul(key, as_query.transpose(1, 2)).gather(
        3, table.transpose(0, 1).expand(*shape[:2], shape[3], shape[2])
    )
    content = torch.matmul(query, key.transpose(2, 3))
    return content + to_positions + from_positions.transpose(2, 3), value


def _residual(part: Any, values: Tensor, hidden: Tensor, rate: Tensor, training: bool) -> Tensor:
    normalised: Tensor = part.LayerNorm(_dropped(part.dense(values), rate, training) + hidden)
    return normalised


def _convolved(
    part: Any, embedded: Tensor, hidden: Tensor, mask: Tensor, rate: Tensor, training: bool
) -> Tensor:
    """DeBERTa-v2's convolution beside the first layer."""
    found = part.conv(embedded.transpose(1, 2)).transpose(1, 2)
    found = found.masked_fill(~mask.unsqueeze(2), 0)
    found = ACT2FN[part.conv_act](_dropped(found, rate, training))
    normalised: Tensor = part.LayerNorm(hidden + found)
    return normalised * mask.unsqueeze(2).to(normalised.dtype)


def _dropped(values: Tensor, rate: Tensor, training: bool) -> Tensor:
    """Dropout at a rate that the graph does not know."""
    if not training:
        return values
    kept = torch.rand_like(values, dtype=torch.float32) >= rate
    return values * kept * (1.0 / (1.0 - rate)).to(values.dtype)
