"""Posts, criteria and the labelled pairs of both: what every study learns from.

A corpus is in canonical order whatever the order of its files: posts by id, pairs by post and then
by criterion in the catalogue's order. So an index of a pair means the same on every worker, and
folds, seeds and `sha256` depend on the data alone.
"""

from __future__ import annotations

import hashlib
import json
import stat
import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from criteria_cli.data.criteria import Criterion
from criteria_cli.errors import UsageError

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False, repr=False)
class Corpus:
    """Labelled pairs of post and criterion. Its `repr` never shows a text."""

    post_ids: tuple[str, ...]
    """Sorted and unique."""
    texts: tuple[str, ...]
    """One per post."""
    groups: tuple[str, ...]
    """One per post: its author, document, or its own id."""
    criteria: tuple[Criterion, ...]
    post: NDArray[np.int32]
    """(pairs,) the position of a pair's post in `post_ids`."""
    criterion: NDArray[np.int32]
    """(pairs,) the position of a pair's criterion in `criteria`."""
    label: NDArray[np.int8]
    """(pairs,) 1 where the post shows the criterion."""
    evidence: Mapping[int, tuple[str, ...]]
    """Annotated sentences (status 1) by index of the pair, sorted and unique."""
    collapsed: int = 0
    """Rows that repeated another and were dropped."""
    ignored: int = 0
    """Annotations that name no criterion on purpose, such as ReDSM5's `SPECIAL_CASE`."""
    warnings: tuple[str, ...] = field(default=())
    """What a person should hear about the files; nothing that stops the work."""

    def __repr__(self) -> str:
        return f"Corpus(posts={len(self.post_ids)}, pairs={len(self)}, positives={self.positives})"

    def __len__(self) -> int:
        return len(self.label)

    @property
    def positives(self) -> int:
        """Pairs with label 1."""
        return int(self.label.sum())

    @cached_property
    def blocks(self) -> NDArray[np.int32]:
        """(posts,) what must never be torn apart: posts of one group, and posts with one text.

        Both relations together, followed to their end (union-find); texts are compared without
        case, white space and Unicode's compatibility forms. Numbered by their first post. Folds,
        samples and the bootstrap work on blocks.
        """
        return _blocks(self.groups, self.texts)

    @cached_property
    def sha256(self) -> str:
        """The fingerprint of everything that training can see.

        Ids, texts, groups, criteria, labels and evidence, in canonical order: the same for the
        same data in another file format, row order, column order or with other line ends.
        """
        digest = hashlib.sha256()
        for criterion in self.criteria:
            digest.update(_line((criterion.id, criterion.name, criterion.text)))
        for row in zip(self.post_ids, self.groups, self.texts, strict=True):
            digest.update(_line(row))
        for values, kind in ((self.post, "<i4"), (self.criterion, "<i4"), (self.label, "|i1")):
            digest.update(np.ascontiguousarray(values, dtype=kind).tobytes())
        for pair in sorted(self.evidence):
            digest.update(_line((str(pair), *self.evidence[pair])))
        return digest.hexdigest()


@dataclass(frozen=True, eq=False, repr=False)
class Draft:
    """A corpus as it was read, in the order of its files."""

    post_ids: Sequence[str]
    texts: Sequence[str]
    groups: Sequence[str]
    post: NDArray[np.integer]
    """(pairs,) positions in `post_ids`."""
    criterion: NDArray[np.integer]
    label: NDArray[np.integer]
    evidence: Mapping[tuple[int, int], Iterable[str]]
    """Sentences by (position of post, position of criterion)."""
    collapsed: int = 0
    ignored: int = 0
    warnings: tuple[str, ...] = ()


def assemble(draft: Draft, criteria: tuple[Criterion, ...], source: str) -> Corpus:
    """A draft in canonical order.

    Raises:
        UsageError: it has positive or negative pairs only.
    """
    counts = np.bincount(draft.label, minlength=2)
    if not counts.all():
        raise UsageError(
            f"`{source}` has only label {int(np.argmax(counts))}, training needs both",
            code="data.one_class",
        )
    order = sorted(range(len(draft.post_ids)), key=draft.post_ids.__getitem__)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    keys = rank[draft.post] * len(criteria) + draft.criterion
    sorting = np.argsort(keys)
    keys = keys[sorting]
    evidence: dict[int, tuple[str, ...]] = {}
    for (post, criterion), sentences in draft.evidence.items():
        pair = int(np.searchsorted(keys, rank[post] * len(criteria) + criterion))
        evidence[pair] = tuple(sorted(set(sentences)))
    return Corpus(
        post_ids=tuple(draft.post_ids[place] for place in order),
        texts=tuple(draft.texts[place] for place in order),
        groups=tuple(draft.groups[place] for place in order),
        criteria=criteria,
        post=_fixed((keys // len(criteria)).astype(np.int32)),
        criterion=_fixed((keys % len(criteria)).astype(np.int32)),
        label=_fixed(draft.label[sorting].astype(np.int8)),
        evidence=evidence,
        collapsed=draft.collapsed,
        ignored=draft.ignored,
        warnings=draft.warnings,
    )


def select(corpus: Corpus, posts: NDArray[np.integer]) -> Corpus:
    """The corpus of some posts, given by their positions, with all their pairs.

    Raises:
        UsageError: their pairs have one label only.
    """
    pairs = np.flatnonzero(np.isin(corpus.post, posts))
    evidence = {
        (int(corpus.post[pair]), int(corpus.criterion[pair])): corpus.evidence[pair]
        for pair in pairs.tolist()
        if pair in corpus.evidence
    }
    place = {post: position for position, post in enumerate(posts.tolist())}
    draft = Draft(
        [corpus.post_ids[post] for post in place],
        [corpus.texts[post] for post in place],
        [corpus.groups[post] for post in place],
        np.array([place[post] for post in corpus.post[pairs].tolist()], dtype=np.int64),
        corpus.criterion[pairs],
        corpus.label[pairs],
        {(place[post], criterion): found for (post, criterion), found in evidence.items()},
        warnings=corpus.warnings,
    )
    return assemble(draft, corpus.criteria, "the sample")


def readable_by_others(paths: Iterable[Path]) -> tuple[str, ...]:
    """A warning for each file that every user of the machine may read."""
    warnings = []
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & stat.S_IROTH:
            warnings.append(
                f"`{path.name}` can be read by other users (mode {mode:o}): chmod 600 {path.name}"
            )
    return tuple(warnings)


def _blocks(groups: Sequence[str], texts: Sequence[str]) -> NDArray[np.int32]:
    parent = list(range(len(groups)))

    def root(post: int) -> int:
        while parent[post] != post:
            parent[post] = parent[parent[post]]
            post = parent[post]
        return post

    relations: tuple[Iterable[Hashable], ...] = (groups, map(_same, texts))
    for keys in relations:
        first: dict[Hashable, int] = {}
        for post, key in enumerate(keys):
            ends = sorted((root(post), root(first.setdefault(key, post))))
            parent[ends[1]] = ends[0]
    roots = [root(post) for post in range(len(groups))]
    return _fixed(np.unique(roots, return_inverse=True)[1].astype(np.int32))


def _same(text: str) -> bytes:
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.blake2b(plain.encode(), digest_size=16).digest()


def _line(values: Sequence[str]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _fixed(values: NDArray[Scalar]) -> NDArray[Scalar]:
    values.setflags(write=False)
    return values
