"""A corpus that is generated: the ReDSM5 layout, sentences of our own, no person behind them.

For trying things out, for tests and for measuring growth. A post is a few everyday sentences; for
each criterion that it shows, one to three sentences of evidence stand among them, and some posts
hold a sentence that denies a criterion (status 0). Which criterion a sentence shows can be learned
from its words.
"""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from criteria_cli.data.corpus import Corpus, assemble
from criteria_cli.data.criteria import Criterion, criterion_index
from criteria_cli.data.redsm5 import cross
from criteria_cli.data.sentences import DENIALS, EVERYDAY, EVIDENCE, SHARES, Pattern
from criteria_cli.errors import UsageError

SEED = 7
"""What a study's synthetic corpus is made from: every worker gets the same one."""
CATALOGUE = "dsm5-mdd"
"""The criteria that the sentences are about."""

_POSTS_PER_AUTHOR = 1.6
_AFFECTED_SHARE = 0.55
_DENYING_SHARE = 0.3
_EVERYDAY_MEDIAN, _EVERYDAY_SPREAD, _EVERYDAY_MOST = 3.5, 0.8, 150
_EVERYDAY = -1


@dataclass(frozen=True, eq=False, repr=False)
class _Sentences:
    """The sentences of all posts, in the order in which they stand."""

    post: NDArray[np.int64]
    criterion: NDArray[np.int64]
    """A position in `SHARES`, or -1 for an everyday sentence."""
    shown: NDArray[np.bool_]
    text: list[str]


def synthetic_corpus(posts: int, criteria: tuple[Criterion, ...], *, seed: int = SEED) -> Corpus:
    """The generated corpus; the same one that `write_synthetic` writes.

    Raises:
        UsageError: the criteria are not those of the `dsm5-mdd` catalogue.
    """
    index = criterion_index(criteria)
    if set(SHARES) - set(index):
        raise UsageError(
            f"format `synthetic` is about the criteria `{CATALOGUE}`, not other ones",
            hint=f'data.criteria = "{CATALOGUE}"',
            code="data.criteria",
        )
    sentences, groups = _draw(posts, seed)
    places = [index[name] for name in SHARES]
    annotations = (
        (post, places[criterion], shown, text)
        for post, criterion, shown, text in _rows(sentences)
        if criterion != _EVERYDAY
    )
    draft = cross(_ids(posts), _texts(sentences, posts), groups, annotations, criteria)
    return assemble(draft, criteria, "the synthetic corpus")


def write_synthetic(directory: Path, posts: int = 160, seed: int = SEED) -> None:
    """Write `posts.csv` and `annotations.csv`, readable by their owner alone."""
    sentences, groups = _draw(posts, seed)
    ids = _ids(posts)
    directory.mkdir(parents=True, exist_ok=True)
    _write(
        directory / "posts.csv",
        ("post_id", "group_id", "text"),
        zip(ids, groups, _texts(sentences, posts), strict=True),
    )
    names = list(SHARES)
    places = np.arange(len(sentences.post)) - np.searchsorted(sentences.post, sentences.post)
    _write(
        directory / "annotations.csv",
        ("post_id", "sentence_id", "sentence_text", "DSM5_symptom", "status"),
        (
            (ids[post], f"{ids[post]}_{place}", text, names[criterion], int(shown))
            for place, (post, criterion, shown, text) in zip(
                places.tolist(), _rows(sentences), strict=True
            )
            if criterion != _EVERYDAY
        ),
    )


def _draw(posts: int, seed: int) -> tuple[_Sentences, list[str]]:
    """The sentences and the posts' groups.

    numpy's legacy generator is used because its stream never changes between versions.
    """
    random = np.random.RandomState(seed)
    # some posts show nothing at all, the others several criteria at once, as real ones do
    affected = random.random_sample((posts, 1)) < _AFFECTED_SHARE
    shares = np.array(list(SHARES.values())) / _AFFECTED_SHARE
    shows = affected & (random.random_sample((posts, len(SHARES))) < shares)
    shown_post, shown_criterion = np.nonzero(shows)
    repeats = random.randint(1, 4, len(shown_post))
    denied = random.randint(0, len(SHARES), posts)
    denying = np.flatnonzero(
        (random.random_sample(posts) < _DENYING_SHARE) & ~shows[np.arange(posts), denied]
    )
    lengths = random.lognormal(np.log(_EVERYDAY_MEDIAN), _EVERYDAY_SPREAD, posts)
    everyday = np.repeat(np.arange(posts), lengths.astype(np.int64).clip(1, _EVERYDAY_MOST))

    post = np.concatenate([np.repeat(shown_post, repeats), denying, everyday])
    criterion = np.concatenate(
        [np.repeat(shown_criterion, repeats), denied[denying], np.full(len(everyday), _EVERYDAY)]
    )
    shown = np.zeros(len(post), dtype=bool)
    shown[: repeats.sum()] = True
    order = np.lexsort((random.random_sample(len(post)), post))
    post, criterion, shown = post[order], criterion[order], shown[order]
    text = _words(criterion, shown, random.random_sample(len(post)))
    authors = random.randint(0, max(1, round(posts / _POSTS_PER_AUTHOR)), posts)
    return _Sentences(post, criterion, shown, text), [f"author{number}" for number in authors]


def _words(
    criterion: NDArray[np.int64], shown: NDArray[np.bool_], lot: NDArray[np.float64]
) -> list[str]:
    everyday = [text for pattern in EVERYDAY for text in _expand(pattern)]
    evidence = [
        [text for pattern in EVIDENCE[name] for text in _expand(pattern)] for name in SHARES
    ]
    denials = [list(DENIALS[name]) for name in SHARES]
    texts = []
    for place, is_shown, share in zip(
        criterion.tolist(), shown.tolist(), lot.tolist(), strict=True
    ):
        bank = everyday if place == _EVERYDAY else (evidence if is_shown else denials)[place]
        texts.append(bank[int(share * len(bank))])
    return texts


def _expand(pattern: Pattern) -> list[str]:
    sentence, choices = pattern
    return [sentence.format(*words) for words in itertools.product(*choices)]


def _rows(sentences: _Sentences) -> Iterator[tuple[int, int, bool, str]]:
    return zip(
        sentences.post.tolist(),
        sentences.criterion.tolist(),
        sentences.shown.tolist(),
        sentences.text,
        strict=True,
    )


def _texts(sentences: _Sentences, posts: int) -> list[str]:
    bounds = np.searchsorted(sentences.post, np.arange(posts + 1)).tolist()
    return [" ".join(sentences.text[a:b]) for a, b in itertools.pairwise(bounds)]


def _ids(posts: int) -> list[str]:
    return [f"p{number:06d}" for number in range(posts)]


def _write(path: Path, header: tuple[str, ...], rows: Iterator[tuple[object, ...]]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
