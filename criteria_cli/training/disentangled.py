"""DeBERTa's disentangled attention (He et al., 2021), computed in fewer passes.

The score of query i and key j is q_i k_j + q_i P_k[b(i-j)] + k_j P_q[b(i-j)], where b is the bucket
of a distance and P_k, P_q are projected relative positions. transformers projects every bucket,
repeats the result for every example and picks b(i-j) with a gather. Here a projection is looked up
once for each distance that occurs, in order of distance, and a block of queries is multiplied with
the distances it can have. The products that belong to (i, j) then lie on the diagonals of the
result and are read through a strided view: no index, no gather, no scatter in the gradient.

The function is the same one, up to rounding; dropout falls on the same probabilities with the same
rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from criteria_cli.training.masks import keep_mask

BLOCK = 128
"""Queries (or keys) that go through one product with the positions. Larger blocks compute more
distances that none of them has, smaller ones are less work at once."""
CACHED = 2**18
"""Scores that a processor works on at once, so that they stay in its cache from pass to pass."""


def distance_rows(encoder: Any, distance: Tensor) -> Tensor:
    """The row of a DeBERTa encoder's relative embeddings for each distance i - j."""
    buckets, longest = encoder.position_buckets, encoder.max_relative_positions
    bucket = make_log_bucket_position(distance, buckets, longest) if buckets > 0 else distance
    span = buckets if buckets > 0 else longest
    row: Tensor = (bucket.long() + span).clamp(0, 2 * span - 1)
    return row


def joined(hidden: Tensor, *projections: tuple[nn.Module, float]) -> Tensor:
    """Several projections of the same tokens, each times a factor, as one product."""
    if any(type(projection) is not nn.Linear for projection, _ in projections):
        # low-rank adapters have a forward of their own
        return torch.cat([projection(hidden) * factor for projection, factor in projections], -1)
    weights, biases = (
        torch.cat([_times(getattr(linear, name), factor) for linear, factor in projections])
        for name in ("weight", "bias")
    )
    return functional.linear(hidden, weights, biases)


def _times(values: Tensor, factor: float) -> Tensor:
    return values if factor == 1 else values * factor


def score_scale(size: int) -> float:
    """What scores are multiplied by; the root is rounded to float32, as transformers rounds it."""
    return 1.0 / float(np.sqrt(np.float32(3 * size)))


def pieces(content: Tensor) -> Iterator[tuple[slice, slice]]:
    """Heads and rows of the batch to work on together: on a card all, on a processor few."""
    heads, batch, length, _ = content.shape
    if content.device.type != "cpu":
        yield slice(0, heads), slice(0, batch)
        return
    rows = max(1, CACHED // length**2)
    together = max(1, rows // batch)
    for head in range(0, heads, together):
        for row in range(0, batch, rows):
            yield slice(head, min(head + together, heads)), slice(row, min(row + rows, batch))


def blocks(length: int) -> Iterator[slice]:
    """Equal blocks of about `BLOCK`."""
    count = max(1, round(length / BLOCK))
    size = -(-length // count)
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def diagonals(products: Tensor, length: int) -> Tensor:
    """View (heads, batch, rows, length) of products (heads, batch, rows, length + rows - 1).

    Element (i, j) of the view is element (i, rows - 1 - i + j): what belongs to one pair of
    positions, if columns stand in order of distance.
    """
    heads, batch, rows, columns = products.shape
    return products.as_strided(
        (heads, batch, rows, length),
        (batch * rows * columns, rows * columns, columns - 1, 1),
        products.storage_offset() + rows - 1,
    )


class DisentangledAttention(torch.autograd.Function):
    """Attention of (heads, batch, length, size) queries, keys and values with relative positions.

    Its own backward keeps what composed operations would not: of the length by length tensors only
    the probabilities and, as bytes, which of them were kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_positions: Tensor,
        query_positions: Tensor,
        bias: Tensor | None,
        dropout: float,
    ) -> Tensor:
        """Weighted values (heads, batch, length, size).

        Args:
            query, key, value: (heads, batch, length, size), contiguous; `query` and
                `query_positions` already scaled.
            key_positions: (2 length - 1, heads, size) for distances i - j from length - 1 down.
            query_positions: the same for distances from -(length - 1) up.
            bias: (batch, length) added to the scores of each key, or None.
            dropout: the rate at which probabilities are dropped.
        """
        heads, batch, length, _ = query.shape
        out = torch.empty_like(query)
        probabilities = query.new_empty(heads, batch, length, length)
        weights = torch.empty_like(probabilities) if dropout else probabilities
        with torch.autocast(query.device.type, enabled=False):
            for piece in pieces(query):
                head, row = piece
                scores = _scores(
                    query[piece],
                    key[piece],
                    key_positions[:, head],
                    query_positions[:, head],
                    None if bias is None else bias[row],
                )
                torch.softmax(scores, dim=-1, out=probabilities[piece])
                if dropout:
                    kept = keep_mask(scores, dropout)
                    torch.mul(probabilities[piece], kept, out=weights[piece])
                torch.matmul(weights[piece], value[piece], out=out[piece])
        if dropout:
            out *= 1.0 / (1.0 - dropout)
        ctx.save_for_backward(
            query, key, value, key_positions, query_positions, probabilities, weights
        )
        ctx.dropout = dropout
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, key_positions, query_positions, probabilities, weights = (
            ctx.saved_tensors
        )
        if ctx.dropout:
            grad = grad * (1.0 / (1.0 - ctx.dropout))
        gradients = [
            torch.empty_like(query),
            torch.empty_like(key),
            torch.empty_like(value),
            torch.zeros_like(key_positions),
            torch.zeros_like(query_positions),
        ]
        with torch.autocast(grad.device.type, enabled=False):
            for piece in pieces(query):
                head, _ = piece
                of_query, of_key, of_value = (gradient[piece] for gradient in gradients[:3])
                torch.matmul(weights[piece].transpose(2, 3), grad[piece], out=of_value)
                of_scores = torch.matmul(grad[piece], value[piece].transpose(2, 3))
                if ctx.dropout:
                    # a weight of 0 was dropped, or its probability is 0 and takes no gradient
                    of_scores = torch.ops.aten.threshold_backward(of_scores, weights[piece], 0.0)
                of_scores = torch.ops.aten._softmax_backward_data(  # noqa: SLF001
                    of_scores, probabilities[piece], -1, of_scores.dtype
                )
                torch.matmul(of_scores, key[piece], out=of_query)
                torch.matmul(of_scores.transpose(2, 3), query[piece], out=of_key)
                _position_gradients(
                    of_scores, query[piece], key_positions[:, head],
                    of_query, gradients[3][:, head],
                )  # fmt: skip
                _position_gradients(
                    _readable_across(of_scores), key[piece], query_positions[:, head],
                    of_key, gradients[4][:, head],
                )  # fmt: skip
        return (*gradients, None, None)


def _scores(
    query: Tensor, key: Tensor, key_positions: Tensor, query_positions: Tensor, bias: Tensor | None
) -> Tensor:
    """(heads, batch, length, length) of queries by keys, before the softmax."""
    scores = torch.matmul(query, key.transpose(2, 3))
    for part in blocks(query.shape[2]):
        scores[:, :, part] += _products(query, key_positions, part)
        across = _products(key, query_positions, part).transpose(2, 3)
        # copied first: adding along a stride would not be vectorised
        scores[:, :, :, part] += across.contiguous()
    if bias is not None:
        scores += bias[:, None]
    return scores


def _products(content: Tensor, positions: Tensor, part: slice) -> Tensor:
    """(heads, batch, rows, length): a block of rows against the position at each distance."""
    heads, batch, length, size = content.shape
    rows = part.stop - part.start
    block = content[:, :, part].reshape(heads, batch * rows, size)
    products = torch.bmm(block, positions[_columns(part, length)].permute(1, 2, 0))
    return diagonals(products.view(heads, batch, rows, -1), length)


def _readable_across(values: Tensor) -> Tensor:
    """The transpose of (heads, batch, length, length), in rows that start off the power of two at
    which a processor's cache would hold few of them."""
    if values.device.type != "cpu":
        return values.transpose(2, 3)
    heads, batch, length, _ = values.shape
    apart = values.new_empty(heads, batch, length, length + 8)[..., :length]
    return apart.copy_(values).transpose(2, 3)


def _position_gradients(
    of_scores: Tensor, content: Tensor, positions: Tensor, of_content: Tensor, of_positions: Tensor
) -> None:
    """Add to the gradients of content and positions those that come through their products."""
    heads, batch, length, size = content.shape
    spread = None
    for part in blocks(length):
        rows = part.stop - part.start
        columns = _columns(part, length)
        if spread is None or spread.shape[2] != rows:
            spread = of_scores.new_zeros(heads, batch, rows, length + rows - 1)
        diagonals(spread, length).copy_(of_scores[:, :, part])  # beside them, zeros stay
        flat = spread.view(heads, batch * rows, -1)
        block = content[:, :, part].reshape(heads, batch * rows, size)
        into = torch.bmm(flat, positions[columns].transpose(0, 1))
        of_content[:, :, part] += into.view(heads, batch, rows, size)
        of_positions[columns] += torch.bmm(flat.transpose(1, 2), block).transpose(0, 1)


def _columns(part: slice, length: int) -> slice:
    """Where in a table of 2 length - 1 distances those of a block of rows stand."""
    first = length - part.stop
    return slice(first, first + length + part.stop - part.start - 1)
