"""What a person should know about the data before a search starts: counts, folds, and the score of
a model that says yes to everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from criteria_cli.data.corpus import Corpus
from criteria_cli.data.evidence import find_evidence
from criteria_cli.data.folds import Fold, FoldCount, fold_table, split
from criteria_cli.data.formats import load_corpus
from criteria_cli.study.files import Definition


@dataclass(frozen=True)
class DataSummary:
    """Counts of a corpus and its folds; no text."""

    posts: int
    pairs: int
    positives: int
    groups: int
    criteria: int
    folds: int
    table: tuple[FoldCount, ...]
    """What each fold holds out, by criterion."""
    baseline: float
    """The study's metric, over folds, for a model that calls every pair positive."""
    sha256: str
    warnings: tuple[str, ...]
    evidence_sentences: int = 0
    """Annotated sentences of positive pairs."""
    evidence_found: int = 0
    """How many of them stand in their post, as `criteria_cli.data.evidence` looks for them."""
    collapsed: int = 0
    """Rows that repeated another and were dropped."""
    ignored: int = 0
    """Annotations that name no criterion on purpose."""


def summarise(definition: Definition) -> DataSummary:
    """Read a definition's data and split it.

    Raises:
        UsageError: the data cannot be used, or is too little for the folds.
        MachineError: a package that reads this kind of file is missing.
    """
    spec = definition.spec
    corpus = load_corpus(spec.data, definition.base)
    folds = split(corpus, spec.validation)
    evidence = find_evidence(corpus)
    return DataSummary(
        posts=len(corpus.post_ids),
        pairs=len(corpus),
        positives=corpus.positives,
        groups=len(set(corpus.groups)),
        criteria=len(corpus.criteria),
        folds=len(folds),
        table=fold_table(corpus, folds),
        baseline=all_positive(corpus, folds, spec.validation.metric),
        sha256=corpus.sha256,
        warnings=corpus.warnings,
        evidence_sentences=evidence.sentences,
        evidence_found=evidence.found,
        collapsed=corpus.collapsed,
        ignored=corpus.ignored,
    )


def all_positive(corpus: Corpus, folds: Sequence[Fold], metric: str) -> float:
    """The mean over folds of a metric for a model that calls every pair positive.

    With a share p of positives, recall is 1 and precision p: F1 is 2p / (1 + p), and the average
    precision of a constant score is p.
    """
    scores = []
    for fold in folds:
        labels = corpus.label[fold.validation]
        if metric == "macro_f1":
            kinds = corpus.criterion[fold.validation]
            shares = [labels[kinds == kind].mean() for kind in np.unique(kinds)]
            scores.append(float(np.mean([2 * share / (1 + share) for share in shares])))
        else:
            share = float(labels.mean())
            scores.append(share if metric == "average_precision" else 2 * share / (1 + share))
    return float(np.mean(scores))
