"""Pairs put together from tokens of posts and criteria, as the tokenizer itself would: the same
special tokens, the same token types, and, where a pair is too long, the post cut and the criterion
whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from criteria_cli.errors import UsageError
from criteria_cli.training.tokens import Integers, Tokens, TokenTexts
from criteria_cli.training.windows import WindowRule, Windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PairTemplate:
    """The special tokens that a tokenizer puts around a pair, and its token types."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int, int, int, int] | None
    """Token type of: before, first text, between, second text, after. None if it has none."""
    pad: int

    @property
    def special(self) -> int:
        """How many special tokens a pair has."""
        return len(self.before) + len(self.between) + len(self.after)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> PairTemplate:
        """Read the template off an encoded pair.

        Raises:
            UsageError: the tokenizer mixes the two texts or has no padding token.
        """
        first, second = "they sleep badly", "low mood every day"
        a, b = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (first, second))
        encoded = tokenizer(first, second)
        whole = list(encoded["input_ids"])
        start_a = _find(whole, a, 0)
        start_b = _find(whole, b, start_a + len(a)) if start_a >= 0 else -1
        if start_b < 0 or tokenizer.pad_token_id is None:
            raise UsageError(
                "the tokenizer does not put pairs together as encoders do",
                hint="use the checkpoint of a BERT-like encoder",
                code="model.tokenizer",
            )
        end_a, end_b = start_a + len(a), start_b + len(b)
        types = encoded.get("token_type_ids")
        return cls(
            before=tuple(whole[:start_a]),
            between=tuple(whole[end_a:start_b]),
            after=tuple(whole[end_b:]),
            types=None if types is None else _piece_types(types, start_a, end_a, start_b, end_b),
            pad=int(tokenizer.pad_token_id),
        )


def _find(whole: Sequence[int], part: Sequence[int], start: int) -> int:
    for at in range(start, len(whole) - len(part) + 1):
        if list(whole[at : at + len(part)]) == list(part):
            return at
    return -1


def _piece_types(
    types: Sequence[int], start_a: int, end_a: int, start_b: int, end_b: int
) -> tuple[int, int, int, int, int]:
    def at(position: int, fallback: int) -> int:
        return int(types[position]) if 0 <= position < len(types) else fallback

    a, b = int(types[start_a]), int(types[start_b])
    between = at(end_a, a) if end_a < start_b else a
    return (at(start_a - 1, a) if start_a else a, a, between, b, at(end_b, b))


@dataclass(frozen=True)
class TokenBatch:
    """Pairs as a model takes them, on the host."""

    ids: Integers
    """(rows, width), padded on the right."""
    lengths: Integers
    """(rows,) tokens before the padding."""
    types: Integers | None
    """(rows, width), or None for a model without token types."""
    windows: Windows | None = None
    """Which rows are windows of one pair; None where each row is a pair."""

    @property
    def padded(self) -> bool:
        return bool((self.lengths < self.ids.shape[1]).any())


class PairTokens:
    """Pairs of a post and a criterion, as token ids.

    Args:
        posts: tokens of the posts.
        criteria: tokens of the criteria.
        template: of the tokenizer.
        max_length: tokens of a pair; a longer pair's post is cut.
        cut_left: whether the beginning of a long post goes, as some tokenizers have it.
        windows: how a long post is read in windows instead.

    Raises:
        UsageError: a criterion leaves no room for a post.
    """

    def __init__(
        self,
        posts: TokenTexts,
        criteria: TokenTexts,
        template: PairTemplate,
        max_length: int,
        *,
        cut_left: bool = False,
        windows: WindowRule | None = None,
    ) -> None:
        longest = int(criteria.lengths.max(initial=0))
        if longest + template.special >= max_length:
            raise UsageError(
                f"`model.max_length` is {max_length}, but a criterion alone has {longest} tokens",
                hint=f"set `model.max_length` well above {longest + template.special}",
                code="model.max_length",
            )
        self.posts = posts
        self.criteria = criteria
        self.template = template
        self.max_length = max_length
        self.cut_left = cut_left
        self.windows = windows
        self._post_lengths = posts.lengths
        self._room = max_length - template.special - criteria.lengths

    def lengths(self, posts: Integers, criteria: Integers) -> Integers:
        """(pairs,) tokens of each pair, special tokens included."""
        kept: Integers = np.minimum(self._post_lengths[posts], self._room[criteria])
        return kept + self.criteria.lengths[criteria] + self.template.special

    def with_posts(self, posts: TokenTexts) -> PairTokens:
        """The same with other posts."""
        return PairTokens(
            posts,
            self.criteria,
            self.template,
            self.max_length,
            cut_left=self.cut_left,
            windows=self.windows,
        )

    def rows(self, posts: Integers, criteria: Integers) -> Integers | None:
        """(pairs,) rows that each pair takes in a batch; None where each takes one."""
        if self.windows is None:
            return None
        return self.windows.counts(self._post_lengths[posts], self._room[criteria])

    def cut(self, posts: Integers, criteria: Integers) -> Integers:
        """(pairs,) tokens of each pair's post that the model does not read."""
        if self.windows is not None:
            return self.windows.lost(self._post_lengths[posts], self._room[criteria])
        lost: Integers = np.maximum(self._post_lengths[posts] - self._room[criteria], 0)
        return lost

    def batch(self, posts: Integers, criteria: Integers, width: int) -> TokenBatch:
        """Assemble pairs, padded to `width`."""
        pieces = [
            (piece, self.criteria[criterion])
            for post, criterion in zip(posts, criteria, strict=True)
            for piece in self._pieces(int(post), int(criterion))
        ]
        counts = self.rows(posts, criteria)
        if counts is None:
            return self._assemble(pieces, width, None)
        assert self.windows is not None
        pair = np.repeat(np.arange(len(posts)), counts)
        return self._assemble(pieces, width, Windows(pair, len(posts), self.windows.pooling))

    def _assemble(
        self, pieces: Sequence[tuple[Tokens, Tokens]], width: int, windows: Windows | None
    ) -> TokenBatch:
        template, rows = self.template, len(pieces)
        ids = np.full((rows, width), template.pad, dtype=np.int64)
        types = None if template.types is None else np.zeros((rows, width), dtype=np.int64)
        lengths = np.empty(rows, dtype=np.int64)
        before, between, after = (
            np.array(piece, dtype=np.int32)
            for piece in (template.before, template.between, template.after)
        )
        for row, (a, b) in enumerate(pieces):
            end = 0
            for kind, piece in enumerate((before, a, between, b, after)):
                start, end = end, end + len(piece)
                ids[row, start:end] = piece
                if types is not None and template.types is not None and template.types[kind]:
                    types[row, start:end] = template.types[kind]
            lengths[row] = end
        return TokenBatch(ids, lengths, types, windows)

    def _pieces(self, post: int, criterion: int) -> list[Tokens]:
        """What is read of a post beside a criterion, a row each."""
        if self.windows is None:
            return [self._cut(post, criterion)]
        whole, room = self.posts[post], int(self._room[criterion])
        return [whole[at : at + room] for at in self.windows.starts(len(whole), room)]

    def _cut(self, post: int, criterion: int) -> Tokens:
        whole, room = self.posts[post], int(self._room[criterion])
        if len(whole) <= room:
            return whole
        return whole[len(whole) - room :] if self.cut_left else whole[:room]


def check_assembly(
    pairs: PairTokens,
    tokenizer: Any,
    texts: Sequence[tuple[str, str]],
    posts: Integers,
    criteria: Integers,
) -> None:
    """Hold assembled pairs against the tokenizer's own, pair by pair.

    Raises:
        UsageError: they differ, so this tokenizer's pairs cannot be put together.
    """
    for (post, criterion), a, b in zip(texts, posts, criteria, strict=True):
        own = tokenizer(post, criterion, truncation="only_first", max_length=pairs.max_length)
        tokenizer("")  # or it would be saved as one that truncates
        width = len(own["input_ids"])
        batch = pairs.batch(np.array([a]), np.array([b]), max(width, 1))
        same_types = batch.types is None or batch.types[0].tolist() == own["token_type_ids"]
        if batch.ids[0].tolist() != own["input_ids"] or not same_types:
            raise UsageError(
                "the tokenizer joins a pair in a way of its own, which is not supported",
                hint="use the checkpoint of a BERT-like encoder",
                code="model.tokenizer",
            )
