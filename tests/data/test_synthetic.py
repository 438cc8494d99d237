"""The generated corpus: always the same, in the ReDSM5 layout, with a signal to learn."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from criteria_cli.data.corpus import Corpus
from criteria_cli.data.folds import split
from criteria_cli.data.formats import load_corpus
from criteria_cli.data.synthetic import write_synthetic
from criteria_cli.study.spec import DataSpec, ValidationSpec


def test_the_files_and_the_corpus_in_memory_are_one(synthetic: Corpus, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "data")
    read = load_corpus(DataSpec(path="data"), tmp_path)
    assert read.sha256 == synthetic.sha256
    assert read.evidence == synthetic.evidence
    assert read.warnings == ()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()}
    assert modes == {0o600}


def test_its_shape(synthetic: Corpus) -> None:
    assert len(synthetic.post_ids) == 160
    assert len(synthetic) == 9 * 160
    assert 0.10 < synthetic.label.mean() < 0.25
    assert np.bincount(synthetic.criterion[synthetic.label == 1], minlength=9).min() >= 5
    assert 1 < len(synthetic.groups) / len(set(synthetic.groups)) < 3
    words = np.array([len(text.split()) for text in synthetic.texts])
    assert words.max() > 3 * np.median(words)  # skewed, as posts are
    # pinned: every worker of a study makes its own copy, and they must be the same
    assert synthetic.sha256[:12] == "5a7d9e8d4754"


@pytest.mark.parametrize("posts", [10, 11, 1000])
def test_other_sizes(posts: int) -> None:
    corpus = load_corpus(DataSpec(format="synthetic", posts=posts), Path())
    assert len(corpus) == 9 * posts
    if posts > 11:
        assert len(split(corpus, ValidationSpec())) == 5


def test_words_give_the_criteria_away(synthetic: Corpus) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    hits = said = shown = 0
    for fold in split(synthetic, ValidationSpec(folds=2)):
        words = TfidfVectorizer().fit([synthetic.texts[at] for at in synthetic.post[fold.train]])
        features = words.transform(synthetic.texts)
        for kind in range(9):
            train, held = (
                side[synthetic.criterion[side] == kind] for side in (fold.train, fold.validation)
            )
            model = LogisticRegression(C=20, class_weight="balanced")
            model.fit(features[synthetic.post[train]], synthetic.label[train])
            guess = model.predict(features[synthetic.post[held]])
            hits += int((guess * synthetic.label[held]).sum())
            said += int(guess.sum())
            shown += int(synthetic.label[held].sum())
    f1 = 2 * hits / (said + shown)
    everything = 2 * synthetic.label.mean() / (1 + synthetic.label.mean())
    assert everything < 0.3
    assert f1 > 0.75
