"""Rewritten posts in place of a positive pair's own, in training folds only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from criteria_cli.training.seeds import generator
from criteria_cli.training.tokens import Integers


class Augmented:
    """Variants of the posts of some pairs.

    Args:
        post: (corpus pairs,) each pair's own post, a row of the token store.
        variants: rows of the token store that may stand in for a pair's post, by pair.
        probability: how often, per pair with variants and epoch, one of them does.

    Attributes:
        applied: how often one did, so far.
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
        self.applied = 0

    def posts(self, pairs: Integers, position: tuple[int, int, int]) -> Integers:
        """(pairs,) the row of the post that each pair has in this epoch.

        Args:
            position: the trial's seed, the fold and the epoch.
        """
        numbers = generator("augmentation", *position)
        # drawn for every pair of the corpus, so that a pair's draw does not hang on the others
        chance = numbers.random(len(self._post))[pairs]
        which = numbers.random(len(self._post))[pairs]
        posts = self._post[pairs]
        chosen = (self._count[pairs] > 0) & (chance < self._probability)
        taken = pairs[chosen]
        offset = (which[chosen] * self._count[taken]).astype(np.int64)
        posts[chosen] = self._rows[self._first[taken] + offset]
        self.applied += int(chosen.sum())
        return posts
