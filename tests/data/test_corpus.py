"""Exact counts, canonical order, the fingerprint, blocks and samples."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from criteria_cli.data.corpus import Corpus, select
from criteria_cli.data.folds import sample
from criteria_cli.data.formats import FORMATS, load_corpus
from criteria_cli.data.synthetic import write_synthetic
from criteria_cli.study.spec import Columns, DataSpec

needs_shared_data = pytest.mark.needs_shared_data


def test_every_format_of_a_study_file_has_a_function() -> None:
    assert set(FORMATS) == set(get_args(DataSpec.model_fields["format"].annotation))


@needs_shared_data
def test_public_sample_derives_153_pairs_20_of_them_positive(shared: Path) -> None:
    corpus = load_corpus(DataSpec(path="redsm5_sample"), shared)
    assert (len(corpus.post_ids), len(corpus), corpus.positives) == (17, 153, 20)
    with (shared / "redsm5_sample/redsm5_annotations_sample_paraphrased.csv").open(
        newline=""
    ) as file:
        expected: dict[str, set[str]] = {}
        for row in csv.DictReader(file):
            if row["status"] == "1":
                expected.setdefault(row["DSM5_symptom"], set()).add(row["post_id"])
    for index, criterion in enumerate(corpus.criteria):
        positive = corpus.post[(corpus.criterion == index) & (corpus.label == 1)]
        found = {corpus.post_ids[post] for post in positive}
        assert found == expected.get(criterion.name, set())


@needs_shared_data
def test_contractnli_counts(contracts: Corpus) -> None:
    assert (len(contracts.post_ids), len(contracts), contracts.positives) == (1478, 13302, 1208)
    assert len(set(contracts.groups)) == 234
    assert contracts.blocks.max() + 1 < 234  # 25 texts stand under several ids
    assert sum(len(sentences) > 1 for sentences in contracts.evidence.values()) == 400


def test_ready_made_table_gives_the_same_pairs_as_the_folder(
    synthetic: Corpus, put: Callable[..., Path]
) -> None:
    rows = [
        {
            "post_id": synthetic.post_ids[post],
            "post": synthetic.texts[post],
            "DSM5_symptom": synthetic.criteria[criterion].name,
            "groundtruth": int(label),
            "author": synthetic.groups[post],
        }
        for post, criterion, label in zip(
            synthetic.post, synthetic.criterion, synthetic.label, strict=True
        )
    ]
    random.Random(1).shuffle(rows)
    path = put("pairs.jsonl", *(json.dumps(row) for row in rows))
    columns = Columns(group="author")
    table = load_corpus(DataSpec(format="pairs", path=path.name, columns=columns), path.parent)
    assert table.sha256 == replace(synthetic, evidence={}).sha256
    assert table.collapsed == 0


def test_every_format_holds_the_same(put: Callable[..., Path], tmp_path: Path) -> None:
    rows = [
        ("p1", "one, two", "A.1", "1"),
        ("p1", "one, two", "A.2", "0"),
        ("p2", "NA", "A.1", "0"),
        ("p3", "naïve “quotes”\nand a second line", "SLEEP_ISSUES", "1"),
    ]
    header = ("post_id", "post", "DSM5_symptom", "groundtruth")
    paths = [tmp_path / name for name in ("a.csv", "b.csv", "c.csv")]
    encodings = ("utf-8", "utf-8-sig", "utf-8")
    for path, encoding, end in zip(paths, encodings, ("\n", "\r\n", "\r\n"), strict=True):
        with path.open("w", encoding=encoding, newline="") as file:
            csv.writer(file, lineterminator=end).writerows([header, *reversed(rows)])
    semicolons = paths[2]
    with semicolons.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=";").writerows([header, *rows])
    put(
        "d.jsonl",
        *(json.dumps(dict(zip(header, (*row[:3], int(row[3])), strict=True))) for row in rows),
    )
    import pyarrow
    import pyarrow.parquet

    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    table = pyarrow.table({**columns, "groundtruth": [float(row[3]) for row in rows]})
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet")
    corpora = [
        load_corpus(DataSpec(format="pairs", path=name, delimiter=delimiter), tmp_path)
        for name, delimiter in (
            ("a.csv", ","),
            ("b.csv", ","),
            ("c.csv", ";"),
            ("d.jsonl", ","),
            ("e.parquet", ","),
        )
    ]
    assert len({corpus.sha256 for corpus in corpora}) == 1
    assert corpora[0].post_ids == ("p1", "p2", "p3")
    assert corpora[0].label.tolist() == [1, 0, 0, 1]
    assert corpora[0].texts[1] == "NA"


@pytest.mark.parametrize("text", ["NA", "null", "None", "nan", "NaN", "-", "0", "#N/A"])
def test_a_post_that_reads_like_nothing_is_a_post(text: str, put: Callable[..., Path]) -> None:
    path = put(
        "pairs.csv",
        "post_id,post,DSM5_symptom,groundtruth",
        f"null,{text},A.1,1",
        "nan,x,A.1,0",
    )
    corpus = load_corpus(DataSpec(format="pairs", path="pairs.csv"), path.parent)
    assert corpus.post_ids == ("nan", "null")
    assert corpus.texts == ("x", text)


def test_a_pair_is_positive_when_any_annotation_says_so(put: Callable[..., Path]) -> None:
    put("my_posts.csv", "post_id,text", "p1,first", "p2,second")
    path = put(
        "my_annotations.csv",
        "post_id,sentence_id,sentence_text,DSM5_symptom,status,explanation",
        "p1,p1_1,one,FATIGUE,0,",
        "p1,p1_2,two,FATIGUE,1.0,",
        "p1,p1_3,three,FATIGUE,True,",
        "p1,p1_3,three,FATIGUE,1,said twice",
        "p1,p1_4,five,FATIGUE,0,",
        "p2,p2_1,four,FATIGUE,False,",
        "p2,p2_1,four,SPECIAL_CASE,1,",
    )
    corpus = load_corpus(DataSpec(path="."), path.parent)
    assert len(corpus) == 18
    (pair,) = np.flatnonzero(corpus.label)
    assert corpus.criteria[corpus.criterion[pair]].name == "FATIGUE"
    assert corpus.post_ids[corpus.post[pair]] == "p1"
    assert corpus.evidence == {pair: ("three", "two")}
    assert (corpus.collapsed, corpus.ignored) == (1, 1)


def test_order_of_rows_means_nothing(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "a", posts=40, seed=3)
    (tmp_path / "b").mkdir()
    for name in ("posts.csv", "annotations.csv"):
        with (tmp_path / "a" / name).open(newline="") as file:
            header, *rows = csv.reader(file)
        random.Random(2).shuffle(rows)
        order = list(range(len(header)))
        random.Random(3).shuffle(order)
        with (tmp_path / "b" / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([row[at] for at in order] for row in [header, *rows])
    first, second = (load_corpus(DataSpec(path=name), tmp_path) for name in "ab")
    assert first.sha256 == second.sha256
    assert first.evidence == second.evidence
    assert np.array_equal(first.blocks, second.blocks)


def test_sha256_sees_everything_that_matters(synthetic: Corpus) -> None:
    label = synthetic.label.copy()
    label[0] = 1 - label[0]
    changes = {
        "label": label,
        "texts": (synthetic.texts[0] + ".", *synthetic.texts[1:]),
        "groups": ("other", *synthetic.groups[1:]),
        "post_ids": ("other", *synthetic.post_ids[1:]),
        "criteria": (replace(synthetic.criteria[0], text="other"), *synthetic.criteria[1:]),
        "evidence": {},
    }
    seen = {synthetic.sha256}
    seen |= {replace(synthetic, **{name: value}).sha256 for name, value in changes.items()}
    assert len(seen) == len(changes) + 1


def test_blocks_follow_groups_and_texts_to_their_end(put: Callable[..., Path]) -> None:
    path = put(
        "pairs.csv",
        "id,post,criterion,label,author",
        "a,same text,A.1,1,x",
        "b,other,A.1,0,x",
        "c,Same  TEXT,A.1,0,y",
        "d,third,A.1,0,y",
        "e,fourth,A.1,0,z",
    )
    columns = Columns(post_id="id", criterion="criterion", label="label", group="author")
    spec = DataSpec(format="pairs", path=path.name, columns=columns)
    assert load_corpus(spec, path.parent).blocks.tolist() == [0, 0, 0, 0, 1]


def test_a_sample_takes_whole_blocks_and_keeps_their_pairs(synthetic: Corpus) -> None:
    small = sample(synthetic, 40, seed=1)
    assert 30 <= len(small.post_ids) <= 40
    assert len(small) == 9 * len(small.post_ids)
    inside = {synthetic.post_ids.index(post) for post in small.post_ids}
    for block in np.unique(synthetic.blocks):
        members = set(np.flatnonzero(synthetic.blocks == block).tolist())
        assert members <= inside or not members & inside
    truth = {
        (synthetic.post_ids[post], int(criterion)): (int(label), synthetic.evidence.get(pair))
        for pair, (post, criterion, label) in enumerate(
            zip(synthetic.post, synthetic.criterion, synthetic.label, strict=True)
        )
    }
    for pair, (post, criterion) in enumerate(zip(small.post, small.criterion, strict=True)):
        found = (int(small.label[pair]), small.evidence.get(pair))
        assert found == truth[small.post_ids[post], int(criterion)]
    assert sample(synthetic, 40, seed=1).sha256 == small.sha256
    assert sample(synthetic, 40, seed=2).sha256 != small.sha256
    everything = np.arange(len(synthetic.post_ids))
    assert select(synthetic, everything).sha256 == synthetic.sha256


def test_nobody_sees_a_text_by_accident(synthetic: Corpus) -> None:
    assert repr(synthetic) == str(synthetic) == "Corpus(posts=160, pairs=1440, positives=242)"


def test_files_that_everybody_may_read_are_warned_about(put: Callable[..., Path]) -> None:
    path = put("pairs.csv", "post_id,post,DSM5_symptom,groundtruth", "a,x,A.1,1", "b,y,A.1,0")
    spec = DataSpec(format="pairs", path=path.name)
    assert load_corpus(spec, path.parent).warnings == ()
    path.chmod(0o644)
    assert load_corpus(spec, path.parent).warnings == (
        "`pairs.csv` can be read by other users (mode 644): chmod 600 pairs.csv",
    )
