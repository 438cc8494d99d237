"""Which pairs a trial learns from and which it is scored on.

Blocks of posts (one group, one text; `Corpus.blocks`) are never torn apart. Within that, folds are
balanced by criterion *and* label by iterative stratification (Sechidis, Tsoumakas and Vlahavas,
2011), here over blocks: the scarcest (criterion, label) first, its largest block first, to the fold
that still wants most of it; then single blocks move while that evens out the whole. Ties are broken
by a hash of seed and post id. So an assignment is a function of data and seed alone: neither the
order of rows nor the version of a library has a part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from criteria_cli.data.corpus import Corpus, select
from criteria_cli.errors import UsageError
from criteria_cli.study.spec import ValidationSpec

_PASSES = 8
"""Rounds of moving single blocks; two or three are usual."""

Pairs = NDArray[np.int64]
"""Indices of pairs, ascending."""


@dataclass(frozen=True, eq=False)
class Fold:
    """One validation split."""

    number: int
    """From 1."""
    train: Pairs
    validation: Pairs


@dataclass(frozen=True)
class FoldCount:
    """What one fold holds out for one criterion."""

    criterion_id: str
    criterion_name: str
    fold: int
    pairs: int
    posts: int
    positives: int


def split(corpus: Corpus, validation: ValidationSpec) -> tuple[Fold, ...]:
    """The folds of a study. K-fold: every pair is held out once; holdout: a single fold.

    Raises:
        UsageError: there are too few blocks with a positive pair to give every fold one.
    """
    everything = np.arange(len(corpus), dtype=np.int64)
    if validation.scheme == "holdout":
        held = 1.0 - validation.train_fraction
        return (inner_split(corpus, everything, held, validation.seed),)
    shares = [1.0 / validation.folds] * validation.folds
    parts = _parts(corpus, everything, shares, validation.seed)
    return tuple(
        Fold(number, train=everything[parts != number - 1], validation=everything[part])
        for number, part in enumerate((parts == index for index in range(validation.folds)), 1)
    )


def inner_split(corpus: Corpus, pair_indices: Pairs, fraction: float, seed: int) -> Fold:
    """Hold out about `fraction` of some pairs, whole blocks at a time.

    For early stopping, thresholds and calibration on data that the reported fold does not contain.

    Args:
        corpus: the corpus.
        pair_indices: (n,) the pairs to divide, such as a fold's training part.
        fraction: the share to hold out, in (0, 1).
        seed: with the data, decides the assignment.

    Raises:
        UsageError: fewer than two blocks have a positive pair.
    """
    pairs = np.sort(np.asarray(pair_indices, dtype=np.int64))
    parts = _parts(corpus, pairs, [1.0 - fraction, fraction], seed)
    return Fold(1, train=pairs[parts == 0], validation=pairs[parts == 1])


def fold_table(corpus: Corpus, folds: Sequence[Fold]) -> tuple[FoldCount, ...]:
    """What each fold holds out, by criterion and then by fold."""
    counts = []
    for index, criterion in enumerate(corpus.criteria):
        for fold in folds:
            pairs = fold.validation[corpus.criterion[fold.validation] == index]
            counts.append(
                FoldCount(
                    criterion.id,
                    criterion.name,
                    fold.number,
                    pairs=len(pairs),
                    posts=len(np.unique(corpus.post[pairs])),
                    positives=int(corpus.label[pairs].sum()),
                )
            )
    return tuple(counts)


def sample(corpus: Corpus, posts: int, seed: int) -> Corpus:
    """About `posts` posts, for quick runs: whole blocks, in an order drawn by seed and post id.

    Takes at least one block, and no block that would bring it above `posts` otherwise.

    Raises:
        UsageError: what was drawn has one label only.
    """
    first, sizes = np.unique(corpus.blocks, return_index=True, return_counts=True)[1:]
    lots = np.array([_lot(seed, corpus.post_ids[post]) for post in first], dtype=np.uint64)
    taken: list[int] = []
    left = posts
    for block in np.argsort(lots).tolist():
        if sizes[block] <= left or not taken:
            taken.append(block)
            left -= int(sizes[block])
    return select(corpus, np.flatnonzero(np.isin(corpus.blocks, taken)))


def _parts(corpus: Corpus, pairs: Pairs, shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """(n,) the part, from 0, that each pair belongs to."""
    found, block = np.unique(corpus.blocks[corpus.post[pairs]], return_inverse=True)
    kinds = 2 * len(corpus.criteria)
    kind = 2 * corpus.criterion[pairs] + 1 - corpus.label[pairs]
    counts = np.bincount(block * kinds + kind, minlength=len(found) * kinds)
    counts = counts.reshape(len(found), kinds)
    positive = int((counts[:, ::2].sum(axis=1) > 0).sum())
    if positive < len(shares):
        what = f"{len(shares)} folds need" if len(shares) > 2 else "a split needs"
        raise UsageError(
            f"{what} {len(shares)} groups of posts with a positive label, there "
            + ("is 1" if positive == 1 else f"are {positive}"),
            code="data.too_few_positives",
        )
    first_post = np.unique(corpus.blocks, return_index=True)[1][found]
    lots = np.array([_lot(seed, corpus.post_ids[post]) for post in first_post], dtype=np.uint64)
    parts = _stratify(counts, np.array(shares), lots)
    _even_out(parts, counts, np.array(shares), lots)
    _give_each_a_positive(parts, counts, len(shares))
    return parts[block]


def _stratify(
    counts: NDArray[np.int64], shares: NDArray[np.float64], lots: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """The part of each block.

    Args:
        counts: (blocks, kinds) pairs of each (criterion, label).
        shares: (parts,) of all pairs.
        lots: (blocks,) what breaks ties.
    """
    left = counts.sum(axis=0)
    target = np.maximum(np.outer(shares, left), 1e-9)
    wanted = target.copy()
    parts = np.full(len(counts), -1, dtype=np.int64)
    while left.any():
        kind = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        members = np.flatnonzero((parts < 0) & (counts[:, kind] > 0))
        for block in members[np.lexsort((lots[members], -counts[members, kind]))]:
            row = counts[block]
            growth = _growth(row, wanted, target)
            order = np.roll(np.arange(len(shares)), int(lots[block] % len(shares)))
            keys = np.round(np.stack([growth.sum(axis=1), growth[:, kind]])[:, order], 9)
            part = order[np.lexsort(keys)[0]]
            parts[block] = part
            wanted[part] -= row
            left -= row
    return parts


def _even_out(
    parts: NDArray[np.int64],
    counts: NDArray[np.int64],
    shares: NDArray[np.float64],
    lots: NDArray[np.uint64],
) -> None:
    """Move blocks, in place and one at a time, while that brings all parts nearer their targets."""
    target = np.maximum(np.outer(shares, counts.sum(axis=0)), 1e-9)
    wanted = target - np.stack([counts[parts == part].sum(axis=0) for part in range(len(shares))])
    for _ in range(_PASSES):
        before = parts.copy()
        for block in np.argsort(lots):
            row, here = counts[block], parts[block]
            wanted[here] += row
            growth = np.round(_growth(row, wanted, target).sum(axis=1), 9)
            best = int(np.argmin(growth))
            if growth[best] < growth[here]:
                parts[block] = best
            wanted[parts[block]] -= row
        if (parts == before).all():
            return


def _growth(
    row: NDArray[np.int64], wanted: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(parts, kinds) how much each squared distance from the target, over the target, would grow
    if the block with these counts were added."""
    return row * (row - 2.0 * wanted) / target


def _give_each_a_positive(parts: NDArray[np.int64], counts: NDArray[np.int64], number: int) -> None:
    """Where chance left a part without a positive pair, move the smallest block that has one."""
    positive = counts[:, ::2].sum(axis=1) > 0
    for part in range(number):
        held = np.bincount(parts[positive], minlength=number)
        if not held[part]:
            donors = np.flatnonzero(positive & (parts == int(np.argmax(held))))
            parts[donors[np.argmin(counts[donors].sum(axis=1))]] = part


def _lot(seed: int, post_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{post_id}".encode(), digest_size=8).digest())
