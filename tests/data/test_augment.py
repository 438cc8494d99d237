"""Only the evidence of training positives is rewritten; where it is not, an error says so."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from criteria_cli.data.augment import Augmentation, VariantCache, augmented_texts
from criteria_cli.data.corpus import Corpus
from criteria_cli.data.evidence import find_evidence
from criteria_cli.data.folds import split
from criteria_cli.data.formats import load_corpus
from criteria_cli.data.wordnet import SynonymAugmenter, find_wordnet
from criteria_cli.errors import MachineError, UsageError, WorkError
from criteria_cli.study.spec import AugmentationSpec, DataSpec, ValidationSpec

SETTINGS = AugmentationSpec(enable=True, variants=3, words=0.5)


def marked(sentence: str, random: np.random.Generator) -> str:
    """An augmenter whose work can be seen."""
    return f"<<{sentence}|{random.integers(1000)}>>"


def unmarked(text: str) -> str:
    while "<<" in text:
        head, _, rest = text.partition("<<")
        sentence, _, rest = rest.partition("|")
        text = head + sentence + rest.partition(">>")[2]
    return text


def test_only_training_positives_and_only_their_evidence(synthetic: Corpus) -> None:
    fold = split(synthetic, ValidationSpec())[0]
    made = augmented_texts(synthetic, fold.train, marked, SETTINGS, seed=1)
    assert set(made.texts) == {pair for pair in fold.train.tolist() if synthetic.label[pair] == 1}
    held_out = {synthetic.texts[post] for post in synthetic.post[fold.validation]}
    spans = find_evidence(synthetic).spans
    for pair, texts in made.texts.items():
        original = synthetic.texts[synthetic.post[pair]]
        assert len(set(texts)) == 3
        for text in texts:
            assert unmarked(text) == original
            assert original not in held_out
            assert text.count("<<") == len(spans[pair])
            for span in spans[pair]:
                assert f"<<{original[span.start : span.end]}|" in text
    assert made.positives == len(made.texts)
    assert made.found == made.sentences
    assert made.found_share == 1.0
    assert made.variants == 3 * len(made.texts)
    assert (
        repr(made)
        == f"Augmentation(pairs={made.positives} of {made.positives}, variants={made.variants})"
    )


def test_variants_are_a_function_of_seed_and_pair(synthetic: Corpus) -> None:
    first, second = split(synthetic, ValidationSpec())[:2]
    one = augmented_texts(synthetic, first.train, marked, SETTINGS, seed=1).texts
    two = augmented_texts(synthetic, second.train, marked, SETTINGS, seed=1).texts
    shared = set(one) & set(two)
    assert shared
    assert {pair: one[pair] for pair in shared} == {pair: two[pair] for pair in shared}
    other = augmented_texts(synthetic, first.train, marked, SETTINGS, seed=2).texts
    assert other != one
    draws = {texts[0].partition("|")[2][:3] for texts in one.values()}
    assert len(draws) > len(one) / 2  # each pair has random numbers of its own


def test_an_augmenter_that_fails_is_an_error(synthetic: Corpus) -> None:
    pairs = np.flatnonzero(synthetic.label)

    def broken(sentence: str, random: np.random.Generator) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        augmented_texts(synthetic, pairs, broken, SETTINGS, seed=1)
    with pytest.raises(WorkError, match="the augmenter answered no text"):
        augmented_texts(synthetic, pairs, lambda sentence, random: " ", SETTINGS, seed=1)
    with pytest.raises(WorkError, match="changed none of 475 evidence sentences"):
        augmented_texts(synthetic, pairs, lambda sentence, random: sentence, SETTINGS, seed=1)


def test_no_evidence_is_an_error(synthetic: Corpus) -> None:
    pairs = np.flatnonzero(synthetic.label)
    bare = replace(synthetic, evidence={})
    with pytest.raises(UsageError, match="needs evidence sentences, and this data has none"):
        augmented_texts(bare, pairs, marked, SETTINGS, seed=1)
    strange = replace(synthetic, evidence={int(pairs[0]): ("Nothing of this kind was said.",)})
    with pytest.raises(UsageError, match="found none of 1 evidence sentences in their posts"):
        augmented_texts(strange, pairs, marked, SETTINGS, seed=1)


def test_a_sentence_with_fewer_variants_has_fewer(synthetic: Corpus) -> None:
    pair = int(np.flatnonzero(synthetic.label)[0])

    def two_ways(sentence: str, random: np.random.Generator) -> str:
        return sentence if random.random() < 0.3 else sentence.upper()

    one_span = replace(synthetic, evidence={pair: synthetic.evidence[pair][:1]})
    made = augmented_texts(one_span, [pair], two_ways, SETTINGS, seed=1)
    assert len(made.texts[pair]) == 1


def test_variants_are_made_once_and_kept_privately(synthetic: Corpus, tmp_path: Path) -> None:
    calls = 0

    def counted(sentence: str, random: np.random.Generator) -> str:
        nonlocal calls
        calls += 1
        return marked(sentence, random)

    first, second = split(synthetic, ValidationSpec())[:2]
    cache = VariantCache(tmp_path / "runs" / "s1", "counted")

    def make(pairs: np.ndarray, seed: int = 1) -> Augmentation:
        return augmented_texts(synthetic, pairs, counted, SETTINGS, seed, cache)

    made = make(first.train)
    before = calls
    assert make(first.train) == made
    assert calls == before
    both = make(second.train)
    assert calls > before
    assert not set(both.texts) & (set(first.train.tolist()) - set(second.train.tolist()))
    assert make(second.train, seed=2) != both
    (tmp_path / "runs" / "s1").chmod(0o700)
    files = sorted(cache.folder.iterdir())
    assert len(files) == 2
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    files[0].write_text("{")  # half a file counts as none
    files[1].write_text("{")
    assert make(first.train) == made
    assert json.loads(cache.path(synthetic, 3, 1).read_text())
    other = VariantCache(cache.folder, "another")
    assert other.path(synthetic, 3, 1) != cache.path(synthetic, 3, 1)


def test_synonyms_keep_case_endings_and_everything_else(tiny_wordnet: Path) -> None:
    augmenter = SynonymAugmenter(1.0, tiny_wordnet)
    sentence = (
        "Doctors  stop; the doctor, exhausted, carries on\n\u2013 soon? I can't. Doctor Weep wept."
    )
    changed = {augmenter(sentence, np.random.default_rng(seed)) for seed in range(20)}
    for text in changed:
        assert text.startswith("Physicians  ")
        assert "the physician, drained, " in text
        assert text.endswith(" on\n\u2013 shortly? I can't. Doctor Weep wept.")
    assert {text.split()[1] for text in changed} == {"cease;", "end;"}
    assert {text.split()[5] for text in changed} == {"bears", "ferries"}


@pytest.mark.parametrize(
    ("word", "synonyms"),
    [
        ("doctor", {"physician"}),  # `medico` never occurs in the tagged corpus
        ("guilt", {"shame"}),  # two words are no synonym of one
        ("exhausted", {"drained"}),  # of the commoner sense
        ("weeping", {"sobbing"}),
        ("sobbing", {"weeping"}),
        ("sobbed", set()),  # `weeped` is no word
        ("carried", {"ferried"}),  # nor is `beared`
        ("stopping", {"ceasing", "ending"}),
        ("wept", set()),
        ("the", set()),
        ("unheard", set()),
    ],
)
def test_synonyms_of_words(word: str, synonyms: set[str], tiny_wordnet: Path) -> None:
    augmenter = SynonymAugmenter(1.0, tiny_wordnet)
    found = {augmenter(f"he {word}", np.random.default_rng(seed))[3:] for seed in range(30)}
    assert found == (synonyms or {word})


def test_articles_keep_fitting(tiny_wordnet: Path) -> None:
    augmenter = SynonymAugmenter(1.0, tiny_wordnet)
    found = {augmenter("a stop", np.random.default_rng(seed)) for seed in range(30)}
    assert found == {"a cease"}


def test_the_share_of_words_is_kept(tiny_wordnet: Path) -> None:
    sentence = "doctor weep stop carry soon doctor weep stop carry soon"
    for words, expected in ((0.05, 1), (0.2, 2), (0.5, 5), (1.0, 10)):
        changed = SynonymAugmenter(words, tiny_wordnet)(sentence, np.random.default_rng(0))
        pairs = zip(sentence.split(), changed.split(), strict=True)
        assert sum(old != new for old, new in pairs) == expected


def test_where_wordnet_is_looked_for(
    tiny_wordnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WNSEARCHDIR", str(tiny_wordnet))
    assert find_wordnet() == tiny_wordnet
    assert SynonymAugmenter(0.5).identity == "synonym 0.5, WordNet 0.1"
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    monkeypatch.setattr("nltk.data.path", [])
    monkeypatch.setattr("criteria_cli.data.wordnet.FOLDERS", ())
    with pytest.raises(MachineError) as caught:
        find_wordnet()
    assert caught.value.message == "synonyms need WordNet's files, which are not on this machine"
    assert "apt-get install wordnet-base" in caught.value.hint
    (tmp_path / "data.noun").touch()
    with pytest.raises(MachineError, match=r"has no file `data.verb`"):
        SynonymAugmenter(0.5)


def test_without_nltk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nltk", None)
    with pytest.raises(MachineError) as caught:
        find_wordnet()
    assert caught.value.message == "synonyms need nltk"
    assert caught.value.hint == "pip install 'criteria[augment]'"


def test_a_corpus_through_a_small_wordnet(tiny_wordnet: Path, put: Callable[..., Path]) -> None:
    put("posts.csv", "post_id,text", "p1,The doctor sat there. The doctor was exhausted.", "p2,x")
    path = put(
        "annotations.csv",
        "post_id,sentence_text,DSM5_symptom,status",
        "p1,The doctor was exhausted.,FATIGUE,1",
    )
    corpus = load_corpus(DataSpec(path="."), path.parent)
    augmenter = SynonymAugmenter(1.0, tiny_wordnet)
    made = augmented_texts(corpus, range(len(corpus)), augmenter, SETTINGS, seed=1)
    (texts,) = made.texts.values()
    assert texts == ("The doctor sat there. The physician was drained.",)


@pytest.mark.needs_shared_data
def test_contracts_through_the_real_wordnet(contracts: Corpus) -> None:
    try:
        augmenter = SynonymAugmenter(0.15)
    except MachineError as error:
        pytest.skip(error.message)
    fold = split(contracts, ValidationSpec())[0]
    made = augmented_texts(contracts, fold.train[:900], augmenter, SETTINGS, seed=1)
    assert made.found_share == 1.0
    assert len(made.texts) > 0.95 * made.positives
    assert made.variants > 2.5 * len(made.texts)
