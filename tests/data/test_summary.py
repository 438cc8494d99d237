"""What a person is told about the data, and the baseline beside every score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from criteria_cli.data.corpus import Corpus
from criteria_cli.data.folds import split
from criteria_cli.data.summary import all_positive, summarise
from criteria_cli.study.files import load_definition
from criteria_cli.study.spec import ValidationSpec


def test_the_demo_is_summarised() -> None:
    summary = summarise(load_definition("demo"))
    assert (summary.posts, summary.pairs, summary.positives) == (100, 900, 151)
    assert (summary.criteria, summary.folds, len(summary.table)) == (9, 5, 45)
    assert (summary.evidence_sentences, summary.evidence_found) == (298, 298)
    assert (summary.collapsed, summary.ignored, summary.warnings) == (0, 0, ())
    assert sum(count.positives for count in summary.table) == 151


@pytest.mark.needs_shared_data
def test_the_public_sample_says_how_many_sentences_were_found(shared: Path, tmp_path: Path) -> None:
    study = tmp_path / "s.toml"
    study.write_text(
        f'schema = 1\nname = "s"\n[data]\npath = "{shared / "redsm5_sample"}"\n'
        "[validation]\nfolds = 3\n"
    )
    summary = summarise(load_definition(str(study)))
    assert (summary.pairs, summary.positives) == (153, 20)
    assert (summary.evidence_sentences, summary.evidence_found) == (21, 3)


@pytest.mark.parametrize("metric", ["f1", "macro_f1", "average_precision"])
def test_the_baseline_is_what_scikit_learn_says_of_a_constant(
    metric: str, synthetic: Corpus
) -> None:
    from sklearn.metrics import average_precision_score, f1_score

    folds = split(synthetic, ValidationSpec())
    scores = []
    for fold in folds:
        labels, kinds = synthetic.label[fold.validation], synthetic.criterion[fold.validation]
        ones = np.ones(len(labels))
        if metric == "f1":
            scores.append(f1_score(labels, ones))
        elif metric == "average_precision":
            scores.append(average_precision_score(labels, ones))
        else:
            own = [labels[kinds == kind] for kind in range(9)]
            scores.append(np.mean([f1_score(part, np.ones(len(part))) for part in own]))
    assert all_positive(synthetic, folds, metric) == pytest.approx(np.mean(scores))
