"""Rewritten posts in place of a positive pair's own, in training folds only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from criteria_cli.training.seeds import generator
from criteria_cli.training.tokens import Integers

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Augmented:
    """Variants of the posts of some pairs.

    Args:
        post: (corpus pairs,) each pair's own post, a row of the token store.
        variants: rows of the token store that may stand in for a pair's post, by pair.
        probability: how often, per pair with variants and epoch, one of them does.
    """

    def __init__(
        self, post: Integers, variants: Mapping[int, Integers], probability: float
    ) -> None:
        self._post = post
        self._probability = probability
        self._count = np.zeros(len(post), dtype=np.int64)
        self._first = np.zeros(len(post), dtype=np.int64)
        rows: list[int] = []
        for pair, own in variants.items():
            self._first[pair] = len(rows)
            self._count[pair] = len(own)
            rows.extend(map(int, own))
        self._rows = np.array(rows, dtype=np.int64)

    def posts(self, pairs: Integers, position: tuple[int, int, int]) -> Integers:
        """(pairs,) the row of the post that each pair has in this epoch.

        Args:
            position: the trial's seed, the fold and the epoch.
        """
        chosen, which = self._draw(position)
        posts = self._post[pairs]
        taken = pairs[chosen[pairs]]
        offset = (which[taken] * self._count[taken]).astype(np.int64)
        posts[chosen[pairs]] = self._rows[self._first[taken] + offset]
        return posts

    def applied(self, seed: int, fold: int, epochs: int) -> int:
        """How often a variant stood in for a post in the first `epochs` epochs.

        Worked out anew, so that it counts the epochs of an earlier process too. Pairs with variants
        are positive, and an epoch leaves out none of these.
        """
        draws = (self._draw((seed, fold, epoch)) for epoch in range(1, epochs + 1))
        return sum(int(chosen.sum()) for chosen, _ in draws)

    def _draw(self, position: tuple[int, int, int]) -> tuple[Flags, Floats]:
        """For every pair of the corpus, so that a pair's draw does not hang on the others: whether
        a variant stands in for its post, and which, from 0 to 1."""
        numbers = generator("augmentation", *position)
        chance = numbers.random(len(self._post))
        which = numbers.random(len(self._post))
        return (self._count > 0) & (chance < self._probability), which
