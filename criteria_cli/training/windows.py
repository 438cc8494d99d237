"""Long posts read in overlapping windows, and one score from the scores of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from criteria_cli.study.spec import ModelSpec

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class WindowRule:
    """How a post that is too long becomes windows.

    Windows are as long as fits beside the criterion and lie evenly over the post, its first and
    last token among them. Neighbours share at least `overlap` of a window, unless a post would need
    more than `most` of them: then they lie further apart.
    """

    overlap: float
    most: int
    pooling: Literal["max", "logsumexp"]

    @classmethod
    def of(cls, spec: ModelSpec) -> WindowRule | None:
        """The rule of `spec`; None where long posts are cut."""
        if spec.long_posts == "truncate":
            return None
        return cls(spec.window_overlap, spec.max_windows, spec.window_pooling)

    def counts(self, lengths: Integers, room: Integers) -> Integers:
        """(pairs,) windows of posts (pairs,) of so many tokens, with room (pairs,) for so many."""
        step = np.maximum(1, np.floor(room * (1 - self.overlap))).astype(np.int64)
        further = -(-np.maximum(lengths - room, 0) // step)
        counts: Integers = np.minimum(1 + further, self.most)
        return counts

    def starts(self, length: int, room: int) -> list[int]:
        """Where the windows of one post begin."""
        count = int(self.counts(np.array([length]), np.array([room]))[0])
        if count == 1:
            return [0]
        return [round(at) for at in np.linspace(0, length - room, count).tolist()]

    def lost(self, lengths: Integers, room: Integers) -> Integers:
        """(pairs,) tokens of posts that lie in no window."""
        lost: Integers = np.maximum(lengths - self.counts(lengths, room) * room, 0)
        return lost


@dataclass(frozen=True, eq=False)
class Windows:
    """Which rows of a batch are windows of which pair."""

    pair: Integers
    """(rows,) positions in the batch's pairs, ascending."""
    pairs: int
    pooling: Literal["max", "logsumexp"]

    def pool(self, scores: Tensor) -> Tensor:
        """Scores (pairs,) from scores (rows,): the highest window's, or the log of the sum of all
        windows' odds. A pair of one window keeps its score."""
        at = torch.from_numpy(self.pair).to(scores.device, non_blocking=True)
        empty = scores.new_full((self.pairs,), -torch.inf)
        highest = empty.scatter_reduce(0, at, scores, "amax", include_self=False)
        if self.pooling == "max":
            return highest
        base = highest.detach()
        odds = torch.zeros_like(base).scatter_add(0, at, torch.exp(scores - base[at]))
        return base + torch.log(odds)
