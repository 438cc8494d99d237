"""Evidence is found where it stands, in spite of small differences, and nowhere else."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criteria_cli.data.corpus import Corpus
from criteria_cli.data.evidence import FoundEvidence, Haystack, Span, find_evidence
from criteria_cli.data.formats import load_corpus
from criteria_cli.study.spec import DataSpec

POST = (
    "It rained on Monday. I couldn\u2019t \u201csleep\u201d  at\nall \u2013 again. "
    "The \ufb01nal bus was late and my sister remarked on it, loudly."
)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("It rained on Monday.", "It rained on Monday."),
        (
            'I couldn\'t "sleep" at all - again.',
            "I couldn\u2019t \u201csleep\u201d  at\nall \u2013 again.",
        ),
        ("i COULDN'T", "I couldn\u2019t"),
        ("The final bus was late", "The \ufb01nal bus was late"),
        ("The fi\u00adnal bus\u200b was late", "The \ufb01nal bus was late"),
        (
            "The final tram was late, and my sister remarked on it",
            "The \ufb01nal bus was late and my sister remarked on it",
        ),
        ("my sister has remarked on it", "my sister remarked on it"),
        ("Nobody said a word about the weather", None),
        ("the on it", None),
        ("tram", None),
        ("  ", None),
        ("...", None),
    ],
)
def test_tolerant_matching(sentence: str, expected: str | None) -> None:
    span = Haystack(POST).find(sentence)
    assert (POST[span.start : span.end] if span else None) == expected


@given(st.text(min_size=1, max_size=80), st.data())
def test_a_piece_of_a_text_is_found_in_it(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    piece = text[start:end].strip()
    span = Haystack(text).find(text[start:end])
    assert (span is None) == (not piece)
    if span:
        assert text[span.start : span.end] == piece


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_two_texts_give_a_valid_place_or_none(text: str, sentence: str) -> None:
    span = Haystack(text).find(sentence)
    assert span is None or 0 <= span.start < span.end <= len(text)


def test_places_of_one_pair_are_made_one_where_they_overlap(synthetic: Corpus) -> None:
    pair = next(iter(synthetic.evidence))
    text = synthetic.texts[synthetic.post[pair]]
    evidence = {pair: (text[3:20], text[:10], text[40:50], "nowhere to be seen in here")}
    assert find_evidence(replace(synthetic, evidence=evidence)) == FoundEvidence(
        {pair: (Span(0, 20), Span(40, 50))}, sentences=4, found=3
    )


def test_all_evidence_of_the_synthetic_corpus_is_found(synthetic: Corpus) -> None:
    found = find_evidence(synthetic)
    assert found.share == 1.0
    assert set(found.spans) == set(synthetic.evidence)
    some = sorted(synthetic.evidence)[:3]
    assert set(find_evidence(synthetic, [*some, 0]).spans) == set(some)
    assert find_evidence(synthetic, []).share is None


@pytest.mark.needs_shared_data
def test_contract_sentences_are_found_changed_or_not_and_in_no_other_contract(
    contracts: Corpus,
) -> None:
    assert find_evidence(contracts).share == 1.0
    chance = random.Random(1)
    found = near = sentences = elsewhere = 0
    for pair in list(contracts.evidence)[::6]:
        post = Haystack(contracts.texts[contracts.post[pair]])
        other = Haystack(contracts.texts[(contracts.post[pair] + 700) % len(contracts.texts)])
        for sentence in contracts.evidence[pair]:
            words = sentence.split()
            if len(words) < 8:
                continue
            changed = [
                word if chance.random() > 0.12 else chance.choice(("", "thing")) for word in words
            ]
            truth, span = post.find(sentence), post.find(" ".join(changed))
            assert truth
            sentences += 1
            elsewhere += other.find(" ".join(changed)) is not None
            if span:
                found += 1
                shared = min(span.end, truth.end) - max(span.start, truth.start)
                near += shared > 0.8 * (truth.end - truth.start)
    assert sentences > 200
    assert found > 0.97 * sentences
    assert near > 0.95 * sentences
    assert elsewhere == 0


@pytest.mark.needs_shared_data
def test_the_public_sample_has_paraphrases_only(shared: Path) -> None:
    corpus = load_corpus(DataSpec(path="redsm5_sample"), shared)
    for pair, sentences in corpus.evidence.items():
        assert not any(sentence in corpus.texts[corpus.post[pair]] for sentence in sentences)
    found = find_evidence(corpus)
    # three are so near their posts' words that their places are right all the same
    assert (found.sentences, found.found) == (21, 3)
