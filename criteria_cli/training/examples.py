"""The labelled pairs of a corpus as a model meets them: tokens, labels, criteria."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from criteria_cli.data.corpus import Corpus
from criteria_cli.training.batches import MicroBatch
from criteria_cli.training.token_pairs import PairTokens, TokenBatch
from criteria_cli.training.tokens import Integers


@dataclass(frozen=True)
class Cut:
    """What a model does not read of its posts."""

    posts: int
    """Posts that are not read to their end, with one criterion at least."""
    unread: float
    """The share of the posts' tokens that is not read, over all pairs."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Every pair of a corpus. Pairs are named by their index in it."""

    tokens: PairTokens
    post: Integers
    """(pairs,) rows of `tokens.posts`."""
    criterion: Integers
    """(pairs,) rows of `tokens.criteria`."""
    label: NDArray[np.int8]
    criteria: tuple[str, ...]
    """Their ids."""

    @classmethod
    def of(cls, corpus: Corpus, tokens: PairTokens) -> Examples:
        return cls(
            tokens=tokens,
            post=corpus.post.astype(np.int64),
            criterion=corpus.criterion.astype(np.int64),
            label=corpus.label,
            criteria=tuple(criterion.id for criterion in corpus.criteria),
        )

    def cut(self) -> Cut:
        """What of the posts is too long for the model to read."""
        lost = self.tokens.cut(self.post, self.criterion)
        whole = self.tokens.posts.lengths[self.post].sum()
        return Cut(
            posts=len(np.unique(self.post[lost > 0])),
            unread=float(lost.sum() / whole) if whole else 0.0,
        )

    def set_of(self, pairs: Integers, posts: Integers | None = None) -> ExampleSet:
        """Some pairs, with other posts (rows of `tokens.posts`) in place of their own if given."""
        return ExampleSet(self, pairs, self.post[pairs] if posts is None else posts)


@dataclass(frozen=True, eq=False)
class ExampleSet:
    """Some pairs in an order: an epoch, a batch, or what is scored."""

    examples: Examples
    pairs: Integers
    posts: Integers
    """(pairs,) the row of each pair's post."""

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> ExampleSet:
        return ExampleSet(self.examples, self.pairs[rows], self.posts[rows])

    @property
    def lengths(self) -> Integers:
        """(pairs,) tokens of each."""
        return self.examples.tokens.lengths(self.posts, self.examples.criterion[self.pairs])

    @property
    def rows(self) -> Integers | None:
        """(pairs,) rows that each takes on the device; None where each takes one."""
        return self.examples.tokens.rows(self.posts, self.examples.criterion[self.pairs])

    @property
    def labels(self) -> NDArray[np.int8]:
        return self.examples.label[self.pairs]

    def tokens(self, micro_batch: MicroBatch) -> TokenBatch:
        """Assemble a micro-batch of this set."""
        criterion = self.examples.criterion[self.pairs[micro_batch.rows]]
        return self.examples.tokens.batch(
            self.posts[micro_batch.rows], criterion, micro_batch.length
        )

    def micro_batches(self, plan: Iterable[MicroBatch]) -> Iterator[tuple[TokenBatch, Tensor]]:
        """Tokens and labels of each micro-batch of a plan, assembled when asked for."""
        for micro_batch in plan:
            labels = torch.from_numpy(self.labels[micro_batch.rows].astype(np.float32))
            yield self.tokens(micro_batch), labels
