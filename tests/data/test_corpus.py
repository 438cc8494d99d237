"""Exact counts, canonical order and the fingerprint."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest

from criteria_cli.data.corpus import Corpus, load_corpus, select
from criteria_cli.data.synthetic import write_synthetic
from criteria_cli.errors import UsageError
from criteria_cli.study.spec import Columns, DataSpec

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_shared_data = pytest.mark.needs_shared_data


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the development data is not beside this checkout")
    return SHARED


@needs_shared_data
def test_public_sample_derives_153_pairs_20_of_them_positive(shared: Path) -> None:
    corpus = load_corpus(DataSpec(path="redsm5_sample"), shared)
    assert (len(corpus.post_ids), len(corpus), corpus.positives) == (17, 153, 20)
    names = {criterion.name: index for index, criterion in enumerate(corpus.criteria)}
    per_name = {name: int(corpus.label[corpus.criterion == at].sum()) for name, at in names.items()}
    # by hand from the annotations file: distinct posts with a status 1
    assert per_name["SLEEP_ISSUES"] == 5
    assert per_name["APPETITE_CHANGE"] == per_name["PSYCHOMOTOR"] == 0


@needs_shared_data
def test_contractnli_counts(shared: Path) -> None:
    spec = DataSpec(path="contractnli", criteria="contractnli/criteria.json")
    corpus = load_corpus(spec, shared)
    assert (len(corpus.post_ids), len(corpus), corpus.positives) == (1478, 13302, 1208)
    assert len(set(corpus.groups)) == 234
    assert corpus.blocks.max() + 1 < 234  # 25 texts stand under several ids
    assert sum(len(sentences) > 1 for sentences in corpus.evidence.values()) == 400
