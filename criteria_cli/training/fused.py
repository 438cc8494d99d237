"""DeBERTa's attention inside fused kernels, on tokens without padding.

The kernels are those of `disentangled-flash` (https://pypi.org/project/disentangled-flash/), which
compute scores, softmax, dropout and weighted values block by block, forward and backward, so that
no length by length tensor is written. Its attention modules are built around the projections of the
model's own layers and stand beside the model, not in it: parameters, their names and what trials
change in place stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from criteria_cli.training.attention import Inputs, feed, moved, without_adapters

PACKAGE = "disentangled-flash"
_SIZES = (32, 64, 128)
"""Of a head, for which the kernels are written."""
_SHARED = (
    "query_proj", "key_proj", "value_proj", "pos_key_proj", "pos_query_proj", "pos_dropout",
)  # fmt: skip

Feed = Callable[[Any, Tensor, Tensor], Tensor]
"""The rest of a layer: (layer, what attention found, hidden) to hidden."""


class FusedForward:
    """The same function as `DebertaForward`, with attention in fused kernels.

    Padding is taken out behind the embeddings: a micro-batch becomes one row of tokens, and only
    those are computed. A model with a convolution beside its first layer keeps its padding. Of
    the last layer, what follows attention is computed for the first tokens alone.

    Args:
        module: as `serves` admits it.
        rest: what follows attention in a layer.
        kernels: makes an attention module for a configuration; tests give one that a processor can
            run.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        *,
        rest: Feed = feed,
        kernels: Callable[..., Any] | None = None,
    ) -> None:
        if kernels is None:
            import disentangled_flash  # an extra

            kernels = disentangled_flash.TritonTrainingDisentangledSelfAttention
        whole: Any = module
        self._module, self._encoder = whole, whole.deberta.encoder
        self._packs = self._encoder.conv is None
        self._rest = rest
        self._kernels: list[Any] = []
        for layer in self._encoder.layer:
            own = layer.attention.self
            with torch.device("meta"):  # its own weights are never used
                kernel = kernels(module.config)
            for name in _SHARED:
                if hasattr(own, name):
                    setattr(kernel, name, getattr(own, name))
            if self._kernels:
                kernel.position_plan_cache = self._kernels[0].position_plan_cache
            self._kernels.append(kernel)

    @staticmethod
    def serves(module: nn.Module) -> bool:
        """Whether the kernels are installed and compute this model: they read the weights of the
        projections, so adapters would be passed over."""
        if not kernels_version() or find_spec("triton") is None:
            return False
        return fits_kernels(module)

    def __call__(self, inputs: Inputs) -> Tensor:
        module, encoder = self._module, self._encoder
        hidden = module.deberta.embeddings(
            input_ids=inputs.ids, token_type_ids=inputs.types, mask=inputs.mask
        )
        batch = _Packed.of(inputs) if self._packs else _Padded.of(inputs)
        embedded = hidden = batch.pack(hidden)
        positions = encoder.get_rel_embedding()
        with torch.inference_mode(False):  # where the first batch of this length may be made
            self._kernels[0].position_plan_cache.compact(batch.longest, hidden.device)
        for number, (layer, kernel) in enumerate(zip(encoder.layer, self._kernels, strict=True), 1):
            own = layer.attention.self
            kernel.training = own.training
            kernel.attention_probability_dropout = own.dropout.p
            found = batch.attend(kernel, hidden, positions)
            if number == len(encoder.layer):
                found, hidden = batch.first(found), batch.first(hidden)
            hidden = self._rest(layer, found, hidden)
            if number == 1 and isinstance(batch, _Padded) and encoder.conv is not None:
                hidden = encoder.conv(embedded, hidden, batch.mask.long())
        logits = module.classifier(module.dropout(module.pooler(hidden)))
        assert isinstance(logits, Tensor)
        return logits


def kernels_version() -> str:
    """The installed version of the kernels; empty without them."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return ""


def fits_kernels(module: nn.Module) -> bool:
    """Whether this is a DeBERTa that the kernels compute exactly, were they installed."""
    if not without_adapters(module):
        return False
    deberta: Any = module.deberta
    return deberta.encoder.layer[0].attention.self.attention_head_size in _SIZES


@dataclass(frozen=True)
class _Packed:
    """Where the tokens of a micro-batch stand without its padding."""

    place: Tensor | None
    """(tokens,) of each in the flattened batch; None where nothing is padded."""
    starts: Tensor
    """(rows,) of each row's first token."""
    boundaries: Tensor
    """(rows + 1,) int32."""
    info: Any
    longest: int

    @classmethod
    def of(cls, inputs: Inputs) -> _Packed:
        from disentangled_flash import PackedSequenceInfo

        rows, width = inputs.ids.shape
        lengths = _lengths(inputs)
        offsets = tuple(accumulate(lengths, initial=0))
        place = None
        if offsets[-1] < rows * width:
            place = np.concatenate(
                [np.arange(at * width, at * width + n) for at, n in enumerate(lengths)]
            )
        device = inputs.ids.device
        with torch.inference_mode(False):
            boundaries = moved(torch.tensor(offsets, dtype=torch.int32), device)
            return cls(
                None if place is None else moved(torch.from_numpy(place), device),
                boundaries[:-1].long(),
                boundaries,
                PackedSequenceInfo(offsets, lengths, max(lengths)),
                max(lengths),
            )

    def pack(self, hidden: Tensor) -> Tensor:
        """(rows, width, hidden) to (tokens, hidden)."""
        flat = hidden.flatten(0, 1)
        return flat if self.place is None else flat.index_select(0, self.place)

    def attend(self, kernel: Any, hidden: Tensor, positions: Tensor) -> Tensor:
        found, _ = kernel.forward_packed(
            hidden,
            self.boundaries,
            self.longest,
            rel_embeddings=positions,
            packed_info=self.info,
        )
        assert isinstance(found, Tensor)
        return found

    def first(self, values: Tensor) -> Tensor:
        """(rows, 1, hidden) of each row's first token."""
        return values.index_select(0, self.starts).unsqueeze(1)


@dataclass(frozen=True)
class _Padded:
    """A micro-batch as it is."""

    mask: Tensor
    longest: int

    @classmethod
    def of(cls, inputs: Inputs) -> _Padded:
        mask = inputs.mask
        if mask is None:
            mask = torch.ones_like(inputs.ids, dtype=torch.bool)
        return cls(mask, inputs.ids.shape[1])

    def pack(self, hidden: Tensor) -> Tensor:
        return hidden

    def attend(self, kernel: Any, hidden: Tensor, positions: Tensor) -> Tensor:
        found, _ = kernel(hidden, self.mask, rel_embeddings=positions)
        assert isinstance(found, Tensor)
        return found

    def first(self, values: Tensor) -> Tensor:
        return values[:, :1]


def _lengths(inputs: Inputs) -> tuple[int, ...]:
    rows, width = inputs.ids.shape
    if inputs.mask is None:
        return (width,) * rows
    if inputs.lengths is not None:
        return inputs.lengths
    return tuple(inputs.mask.sum(1).tolist())
