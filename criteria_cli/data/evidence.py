"""Where an annotated sentence stands in its post.

An annotation often differs from its post in quotes, white space, case or a few words, or is a
paraphrase that stands nowhere in it. So a sentence is looked for as it is, then in plain letters,
then word by word; what is not found is counted and never invented.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from criteria_cli.data.corpus import Corpus

THRESHOLD = 0.75
"""The least similarity of a word-by-word match: twice the words in common and in order, over the
words of both."""

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_SIGNS = {
    "'": "\u2018\u2019\u201a\u201b\u2032`\u00b4\u02bc",  # quotes, prime, accents
    '"': "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb",
    "-": "\u2010\u2011\u2012\u2013\u2014\u2015\u2212",
    "": "\u200b\u200c\u200d\u2060\ufeff\u00ad",  # signs without width
}
_PLAIN = str.maketrans({sign: plain for plain, signs in _SIGNS.items() for sign in signs})


@dataclass(frozen=True, order=True)
class Span:
    """Characters `start` to `end` (exclusive) of a post."""

    start: int
    end: int


@dataclass(frozen=True)
class FoundEvidence:
    """The evidence of some pairs in their posts."""

    spans: Mapping[int, tuple[Span, ...]] = field(default_factory=dict)
    """By index of the pair: sorted, apart from each other; pairs with none are left out."""
    sentences: int = 0
    """Evidence sentences of these pairs."""
    found: int = 0
    """How many of them stand in their post."""

    @property
    def share(self) -> float | None:
        """`found` of `sentences`; None where there is no evidence at all."""
        return self.found / self.sentences if self.sentences else None


def find_evidence(corpus: Corpus, pairs: Iterable[int] | None = None) -> FoundEvidence:
    """Where the evidence of `pairs` stands; without `pairs`, of all of them."""
    wanted = sorted(corpus.evidence) if pairs is None else sorted(int(pair) for pair in pairs)
    spans: dict[int, tuple[Span, ...]] = {}
    sentences = found = 0
    post, haystack = -1, Haystack("")
    for pair in wanted:
        own = corpus.evidence.get(pair, ())
        if own and corpus.post[pair] != post:
            post = int(corpus.post[pair])
            haystack = Haystack(corpus.texts[post])
        places = [span for sentence in own if (span := haystack.find(sentence)) is not None]
        sentences += len(own)
        found += len(places)
        if places:
            spans[pair] = _apart(places)
    return FoundEvidence(spans, sentences, found)


class Haystack:
    """A post to look for sentences in; prepared once, on demand."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._plain: tuple[str, list[int]] | None = None
        self._tokens: tuple[list[str], list[Span]] | None = None

    def find(self, sentence: str) -> Span | None:
        """The first place of a sentence, or None where nothing is similar enough."""
        sentence = sentence.strip()
        if not sentence:
            return None
        start = self._text.find(sentence)
        if start >= 0:
            return Span(start, start + len(sentence))
        return self._in_plain_letters(sentence) or self._word_by_word(sentence)

    def _in_plain_letters(self, sentence: str) -> Span | None:
        if self._plain is None:
            self._plain = _plain(self._text)
        plain, origin = self._plain
        needle = _plain(sentence)[0].strip()
        start = plain.find(needle) if needle else -1
        if start < 0:
            return None
        return Span(origin[start], origin[start + len(needle) - 1] + 1)

    def _word_by_word(self, sentence: str) -> Span | None:
        if self._tokens is None:
            self._tokens = _tokens(self._text)
        words, spans = self._tokens
        needle = _tokens(sentence)[0]
        # of one or two words, every second post has a similar place
        if len(needle) < 3 or not words:
            return None
        start = _densest(needle, words)
        first = max(0, start - len(needle) // 2)
        last = min(len(words), start + len(needle) + len(needle) // 2)
        matcher = difflib.SequenceMatcher(None, needle, words[first:last], autojunk=False)
        blocks = [block for block in matcher.get_matching_blocks() if block.size]
        if not blocks:
            return None
        begin, end = first + blocks[0].b, first + blocks[-1].b + blocks[-1].size
        common = sum(block.size for block in blocks)
        if 2 * common / (len(needle) + end - begin) < THRESHOLD:
            return None
        return Span(spans[begin].start, spans[end - 1].end)


def _plain(text: str) -> tuple[str, list[int]]:
    """The text in plain letters, and for each of its characters where it came from."""
    letters: list[str] = []
    origin: list[int] = []
    for place, sign in enumerate(text):
        for letter in unicodedata.normalize("NFKC", sign.translate(_PLAIN)).casefold():
            if letter.isspace():
                if letters and letters[-1] == " ":
                    continue
                letter = " "
            letters.append(letter)
            origin.append(place)
    return "".join(letters), origin


def _tokens(text: str) -> tuple[list[str], list[Span]]:
    words: list[str] = []
    spans: list[Span] = []
    for match in _WORD.finditer(text):
        words.append(_plain(match.group())[0].replace("'", ""))
        spans.append(Span(*match.span()))
    return words, spans


def _densest(needle: list[str], words: list[str]) -> int:
    """The start of the window, as long as the needle, that shares most words with it."""
    missing = Counter(needle)
    best = shared = place = 0
    for end, word in enumerate(words):
        shared += missing[word] > 0
        missing[word] -= 1
        start = end - len(needle) + 1
        if start > 0:
            left = words[start - 1]
            missing[left] += 1
            shared -= missing[left] > 0
        if shared > best:
            best, place = shared, max(0, start)
    return place


def _apart(spans: list[Span]) -> tuple[Span, ...]:
    """Sorted spans, those that overlap made one."""
    apart: list[Span] = []
    for span in sorted(spans):
        if apart and span.start < apart[-1].end:
            apart[-1] = Span(apart[-1].start, max(span.end, apart[-1].end))
        else:
            apart.append(span)
    return tuple(apart)
