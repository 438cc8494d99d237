"""DeBERTa's layer as one graph for `torch.compile`, which serves all layers, batches and trials.

A graph is compiled for what it is told is fixed. So whatever differs between layers, batches and
trials is an input of it: sizes are dynamic, padding is always a mask, relative positions are a
table, and dropout rates are numbers beside the data, not attributes of modules, each new value of
which would compile anew. What remains are graphs of training and of scoring, of all tokens and of
the first alone, of one row and of many, for sizes of one are always fixed. A frozen layer is a
graph of its own. A whole model in one graph would take as many times longer to compile as it has
layers.

Attention is composed of operations that a compiler fuses; the rewrite in `disentangled.py` has a
gradient of its own, which it would have to leave alone.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DebertaV2ForSequenceClassification, PreTrainedModel

from criteria_cli.training.attention import Inputs, without_adapters
from criteria_cli.training.disentangled import distance_rows, joined, score_scale
from criteria_cli.training.replay import is_out_of_memory

_log = logging.getLogger(__name__)


class _Graph:
    """A function through a compiler; without it from the first time that it fails.

    Compilation happens at the first call of each kind, inside a training step: that is where it
    can fail, and where the step must go on.
    """

    def __init__(self, function: Callable[..., Tensor], backend: str | Callable[..., Any]) -> None:
        # the compiler looks at `grad` of whatever it is given, and torch then warns of it
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        self._function = function
        self._compiled = torch.compile(function, backend=backend, dynamic=True)
        self._rates: tuple[tuple[float, ...], tuple[Tensor, ...]] | None = None
        self.failed = False

    def __call__(self, *given: Any) -> Tensor:
        if self.failed:
            return self._function(*given)
        try:
            made = self._compiled(*given)
        except Exception as error:  # of compilers there are many, and so are their errors
            if is_out_of_memory(error):
                raise
            self.failed = True
            _log.warning("torch.compile failed (%s), the model runs without", first_line(error))
            return self._function(*given)
        assert isinstance(made, Tensor)
        return made

    def rates(self, rates: tuple[float, ...], device: torch.device) -> tuple[Tensor, ...]:
        """Dropout rates as numbers beside the data, on its device. Each is a tensor of its own: the
        length of a table of rates would be taken for a number of rows that is the same."""
        if self._rates is None or self._rates[0] != rates:
            with torch.inference_mode(False):
                self._rates = (rates, tuple(torch.tensor(rate, device=device) for rate in rates))
        return self._rates[1]


class CompiledForward:
    """`DebertaForward` with its layers through a compiler; see `_layer`.

    Args:
        backend: of `torch.compile`: its name, or a function.
    """

    def __init__(self, module: PreTrainedModel, backend: str | Callable[..., Any] = "inductor"):
        assert isinstance(module, DebertaV2ForSequenceClassification)
        self._module = module
        self._encoder: Any = module.deberta.encoder
        self._graph = _Graph(_layer, backend)
        self._tables: dict[int, Tensor] = {}

    @property
    def failed(self) -> bool:
        """Whether a compilation failed, and the model runs without."""
        return self._graph.failed

    @staticmethod
    def serves(module: nn.Module) -> bool:
        """Whether this is a model whose graph serves all trials: adapters have a dropout of their
        own."""
        return without_adapters(module)

    def __call__(self, inputs: Inputs) -> Tensor:
        module, encoder = self._module, self._encoder
        mask = inputs.mask
        if mask is None:
            mask = torch.ones_like(inputs.ids, dtype=torch.bool)
        table = self._table(inputs.ids.shape[1], inputs.ids.device)
        hidden = module.deberta.embeddings(
            input_ids=inputs.ids, token_type_ids=inputs.types, mask=inputs.mask
        )
        embedded = hidden
        positions = encoder.get_rel_embedding()
        first = encoder.layer[0]
        own = first.attention.self
        rates = self._graph.rates(
            (own.pos_dropout.p, own.dropout.p, first.output.dropout.p), hidden.device
        )
        for number, layer in enumerate(encoder.layer, 1):
            last = number == len(encoder.layer)  # of it the head reads the first token alone
            hidden = self._graph(
                layer, hidden, hidden[:, :1] if last else hidden, positions,
                table[:1] if last else table, mask, rates, module.training,
            )  # fmt: skip
            if number == 1 and encoder.conv is not None:
                hidden = encoder.conv(embedded, hidden, mask.long())
        logits = module.classifier(module.dropout(module.pooler(hidden)))
        assert isinstance(logits, Tensor)
        return logits

    def _table(self, length: int, device: torch.device) -> Tensor:
        """(length, length) the row of the relative embeddings for query i and key j."""
        if length not in self._tables:
            with torch.inference_mode(False):
                place = torch.arange(length, device=device)
                distance = place.unsqueeze(1) - place
                self._tables[length] = distance_rows(self._encoder, distance)
        return self._tables[length]


class CompiledRest:
    """What follows attention in a layer (`attention.feed`), through a compiler.

    Args:
        backend: of `torch.compile`: its name, or a function.
    """

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        self._graph = _Graph(_rest, backend)

    @property
    def failed(self) -> bool:
        """Whether a compilation failed, and the model runs without."""
        return self._graph.failed

    def __call__(self, layer: Any, found: Tensor, hidden: Tensor) -> Tensor:
        (rate,) = self._graph.rates((layer.output.dropout.p,), hidden.device)
        # as one row of tokens, so that first tokens alone need no graph of their own
        made = self._graph(layer, found.flatten(0, -2), hidden.flatten(0, -2), rate, layer.training)
        return made.view_as(hidden)


def _layer(
    layer: Any,
    hidden: Tensor,
    asking: Tensor,
    positions: Tensor,
    table: Tensor,
    mask: Tensor,
    rates: tuple[Tensor, ...],
    training: bool,
) -> Tensor:
    """(rows, asking, hidden) what a layer makes of the tokens that ask.

    Args:
        hidden: (rows, width, hidden) all tokens.
        asking: (rows, asking, hidden) those whose result is wanted: all, or the first.
        positions: (distances, hidden) the relative embeddings.
        table: (asking, width) rows of `positions`.
        mask: (rows, width) True at tokens.
        rates: of positions, attention's probabilities and hidden states.
    """
    position_rate, attention_rate, hidden_rate = rates
    part = layer.attention.self
    own = _dropped(positions, position_rate, training)
    scores, value = _scores(part, hidden, asking, own, table)
    scores = scores.masked_fill(~mask[:, None, None], -math.inf)
    weights = _dropped(functional.softmax(scores, -1), attention_rate, training)
    found = torch.matmul(weights.to(value.dtype), value).transpose(1, 2).flatten(2)
    return _rest(layer, found, asking, hidden_rate, training)


def _rest(layer: Any, found: Tensor, hidden: Tensor, rate: Tensor, training: bool) -> Tensor:
    """What follows attention in a layer."""
    hidden = _residual(layer.attention.output, found, hidden, rate, training)
    return _residual(layer.output, layer.intermediate(hidden), hidden, rate, training)


def first_line(error: Exception) -> str:
    """What a library's error says, with its class and without the rest."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


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


def _dropped(values: Tensor, rate: Tensor, training: bool) -> Tensor:
    """Dropout at a rate that the graph does not know."""
    if not training:
        return values
    kept = torch.rand_like(values, dtype=torch.float32) >= rate
    return values * kept * (1.0 / (1.0 - rate)).to(values.dtype)
