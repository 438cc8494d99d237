"""Synonyms from WordNet (Miller, 1995), read by nltk from files that are already there."""

from __future__ import annotations

import io
import os
import re
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from criteria_cli.errors import MachineError

FOLDERS = ("/usr/share/wordnet", "/usr/local/WordNet-3.0/dict", "/opt/homebrew/opt/wordnet/dict")
"""Where systems keep WordNet; the first is Debian's package `wordnet-base`."""

_HINT = "apt-get install wordnet-base, or set WNSEARCHDIR to the folder with `data.noun`"
_KINDS = ("noun", "verb", "adj", "adv")
_FILES = (
    *(f"data.{kind}" for kind in _KINDS),
    *(f"index.{kind}" for kind in _KINDS),
    *(f"{kind}.exc" for kind in _KINDS),
    "cntlist.rev",
)
_FUNCTION_WORDS = """
about above across after again against all along also although always among and another any
anybody anyone anything are around because been before behind being below beside besides between
beyond both but can cannot could despite did does doing done down during each either else even
ever every everybody everyone everything except few for from gets getting gone got had has have
having her here hers him his how however into its just less like made make makes making may might
mine more most much must myself near neither never nobody none nor not nothing now off one ones
only onto other our ours out outside over own past per same shall she should since some somebody
someone something still such take taken takes took than that the their theirs them then there
therefore these they this those though through till too toward towards twice under unless until
upon used very was went were what when where whether which while who whom whose why will with
within without would yet you your yours yourself two three four five six seven eight nine ten
eleven twelve hundred thousand million
"""
_SAME_IN_THE_PAST = frozenset(
    [
        *("bid", "burst", "cast", "cost", "cut", "hit", "hurt", "let", "put", "quit", "rid"),
        *("set", "shed", "shut", "split", "spread", "thrust"),
    ]
)
_LEFT_ALONE = frozenset(_FUNCTION_WORDS.split())
_WORD = re.compile(r"[A-Za-z]+(?:['\u2019][A-Za-z]+)*")
_ENDINGS = ("s", "ed", "ing")
_VOWELS = "aeiou"
_SHORT = re.compile(r"[^aeiou]*[aeiou][^aeiouwxy]")
"""One syllable that doubles its last letter: stop, stopped."""


class SynonymAugmenter:
    """Replaces words of a sentence by WordNet's synonyms, keeping case and regular endings.

    A word's synonyms are those of its commonest sense that occur in WordNet's tagged corpus, single
    words only. Function words, numbers, words with an apostrophe, names (capitals within a
    sentence) and irregular forms stay.

    Attributes:
        words: the share of the sentence's words that are replaced; at least one, if any can be.
        identity: what the result depends on beside the sentence and the random numbers.
    """

    def __init__(self, words: float, folder: Path | None = None) -> None:
        """
        Raises:
            MachineError: nltk or WordNet's files are missing.
        """
        self.words = words
        if folder is None:
            folder = find_wordnet()
        else:
            _check_whole(folder)
        self._wordnet = _open(folder)
        self._irregular = _irregular(folder)
        self._left_alone = _LEFT_ALONE.union(
            form
            for forms in self._irregular.values()
            for form in forms
            if not form.endswith(_ENDINGS)
        )
        self.identity = f"synonym {words:g}, WordNet {self._wordnet.get_version()}"
        self._synonyms = lru_cache(maxsize=None)(self._look_up)

    def __call__(self, sentence: str, random: np.random.Generator) -> str:
        """The sentence with some of its words replaced; itself where none can be."""
        words = list(_WORD.finditer(sentence))
        choices = {
            place: found
            for place in range(len(words))
            if (found := self._choices([word.group() for word in words], place))
        }
        number = min(len(choices), max(1, round(self.words * len(words))))
        pieces, end = [], 0
        for place in sorted(random.permutation(list(choices))[:number].tolist()):
            word, found = words[place], choices[place]
            chosen = found[int(random.integers(len(found)))]
            pieces += [sentence[end : word.start()], _cased(chosen, word.group())]
            end = word.end()
        return "".join((*pieces, sentence[end:]))

    def _choices(self, words: list[str], place: int) -> tuple[str, ...]:
        """What may stand for a word of a sentence."""
        word = words[place]
        if place and not word.islower():
            return ()
        found = self._synonyms(word.lower())
        if place and words[place - 1].lower() in ("a", "an"):
            vowel = word[0] in _VOWELS
            return tuple(synonym for synonym in found if (synonym[0] in _VOWELS) == vowel)
        return found

    def _look_up(self, word: str) -> tuple[str, ...]:
        if len(word) < 3 or word in self._left_alone or not word.isalpha():
            return ()
        senses = [
            (sense, self._wordnet.morphy(word, sense.pos()) or word)
            for sense in self._wordnet.synsets(word)
        ]
        if not senses:
            return ()
        sense, base = max(senses, key=_frequency)
        found: dict[str, None] = {}
        for lemma in sense.lemmas():
            synonym = lemma.name()
            if lemma.count() and synonym != base and synonym.isalpha() and synonym.islower():
                inflected = self._like(word, base, synonym)
                if inflected:
                    found[inflected] = None
        return tuple(found)

    def _like(self, word: str, base: str, synonym: str) -> str:
        """The synonym with the ending that made `word` of `base`; empty where that is irregular."""
        if word == base:
            return synonym
        for ending in _ENDINGS:
            if word.endswith(ending) and word in self._forms(base, ending):
                return next(iter(self._forms(synonym, ending)), "")
        return ""

    def _forms(self, base: str, ending: str) -> tuple[str, ...]:
        """What `base` looks like with an ending; nothing where it has another one."""
        irregular = self._irregular.get(base, ())
        listed = tuple(form for form in irregular if form.endswith(ending))
        if listed or (ending == "ed" and (irregular or base in _SAME_IN_THE_PAST)):
            return listed
        return (_inflect(base, ending),)


def find_wordnet() -> Path:
    """The folder with WordNet's files.

    Looks at `WNSEARCHDIR`, nltk's own data, then `FOLDERS`.

    Raises:
        MachineError: there is none, or nltk or some of its files are missing.
    """
    _nltk()
    import nltk.data

    named = os.environ.get("WNSEARCHDIR")
    places = [named] if named else []
    places += [str(Path(place) / "corpora" / "wordnet") for place in nltk.data.path]
    for place in (*places, *FOLDERS):
        if (Path(place) / "data.noun").is_file():
            _check_whole(Path(place))
            return Path(place)
    raise MachineError(
        "synonyms need WordNet's files, which are not on this machine",
        hint=_HINT,
        code="machine.wordnet",
    )


def _nltk() -> None:
    try:
        import nltk  # noqa: F401
    except ImportError:
        raise MachineError(
            "synonyms need nltk", hint="pip install 'criteria[augment]'", code="machine.nltk"
        ) from None


def _check_whole(folder: Path) -> None:
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise MachineError(
            f"WordNet in `{folder.name}` has no file `{missing[0]}`",
            hint=_HINT,
            code="machine.wordnet",
        )


@lru_cache  # nltk takes seconds to read it, and keeps its files open
def _open(folder: Path) -> Any:
    """nltk's reader of a folder as WordNet's own packages lay it out."""
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Reader(WordNetCorpusReader):  # type: ignore[misc]  # nltk has no types
        def open(self, file: str) -> Any:
            if file == "lexnames":
                # a list of 45 source files that Debian leaves out and synonyms do not need
                return io.StringIO("".join(f"{at:02d} file{at} 0\n" for at in range(45)))
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            """Other languages' synsets are not asked for."""

    if str(folder) not in nltk.data.path:
        nltk.data.path.append(str(folder))  # nltk opens no file outside the places it is told
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no other languages: we ask for none
        return Reader(str(folder), None)


def _frequency(sense_and_base: tuple[Any, str]) -> int:
    """How often a tagged corpus has this sense of this word."""
    sense, base = sense_and_base
    return max((lemma.count() for lemma in sense.lemmas() if lemma.name() == base), default=0)


def _irregular(folder: Path) -> dict[str, tuple[str, ...]]:
    """The forms of verbs and nouns that WordNet lists and no rule of ours makes, by base form."""
    forms: dict[str, tuple[str, ...]] = {}
    for kind in ("verb", "noun"):
        for line in (folder / f"{kind}.exc").read_text(encoding="utf-8").splitlines():
            form, *bases = line.split()
            for base in bases:
                if any(_inflect(base, ending) == form for ending in _ENDINGS):
                    continue
                forms[base] = (*forms.get(base, ()), form)
    return forms


def _inflect(base: str, ending: str) -> str:
    """The regular English form: stop, stopped; carry, carries; wish, wishes; bake, baking."""
    consonant_y = base.endswith("y") and len(base) > 1 and base[-2] not in _VOWELS
    if ending == "s":
        if consonant_y:
            return base[:-1] + "ies"
        return base + ("es" if base.endswith(("s", "x", "z", "ch", "sh")) else "s")
    if ending == "ed" and consonant_y:
        return base[:-1] + "ied"
    if base.endswith("e") and not (ending == "ing" and base.endswith(("ee", "oe", "ye"))):
        return base[:-1] + ending
    return base + (base[-1] if _SHORT.fullmatch(base) else "") + ending


def _cased(synonym: str, word: str) -> str:
    return synonym.capitalize() if word[:1].isupper() else synonym
