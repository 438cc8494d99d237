"""One table of pairs: a row holds a post, a criterion and a label, in columns named by the study.

Only the listed pairs exist; a post need not be held against every criterion.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from criteria_cli.data.corpus import Corpus, Draft, assemble, readable_by_others
from criteria_cli.data.criteria import Criterion, criterion_index
from criteria_cli.data.posts import PostList, read_label, unknown_criterion
from criteria_cli.data.tables import read_table
from criteria_cli.errors import UsageError
from criteria_cli.study.spec import DataSpec


def load_pairs(path: Path, criteria: tuple[Criterion, ...], spec: DataSpec) -> Corpus:
    """The corpus of a table of pairs.

    Raises:
        UsageError: the table or one of its rows cannot be used.
        MachineError: it is Parquet, and pyarrow is not installed.
    """
    names = spec.columns
    columns = [names.post_id, names.post, names.criterion, names.label]
    if names.group is not None:
        columns.append(names.group)
    index = criterion_index(criteria)
    posts = PostList(path, names.post)
    labels: dict[tuple[int, int], tuple[bool, int]] = {}
    contradicting: dict[tuple[int, int], tuple[int, int]] = {}
    rows = 0
    for row, cells in read_table(path, columns, delimiter=spec.delimiter):
        post_id, text, symptom, cell, *group = cells
        post = posts.add(row, post_id, text, *group)
        criterion = index.get(symptom.strip())
        if criterion is None:
            raise unknown_criterion(path, row, symptom, spec.criteria, criteria)
        label = read_label(path, row, names.label, cell)
        before, first = labels.setdefault((post, criterion), (label, row))
        if before != label:
            contradicting.setdefault((post, criterion), (first, row))
        rows += 1
    posts.close()
    _refuse(path, contradicting)
    keys = np.array(list(labels), dtype=np.int64).reshape(-1, 2)
    draft = Draft(
        posts.ids,
        posts.texts,
        posts.groups,
        keys[:, 0],
        keys[:, 1],
        np.array([label for label, _ in labels.values()], dtype=np.int8),
        evidence={},
        collapsed=rows - len(labels),
        warnings=readable_by_others((path,)),
    )
    return assemble(draft, criteria, path.name)


def _refuse(path: Path, contradicting: dict[tuple[int, int], tuple[int, int]]) -> None:
    if contradicting:
        number = len(contradicting)
        first, second = next(iter(contradicting.values()))
        what = "1 pair has" if number == 1 else f"{number} pairs have"
        raise UsageError(
            f"`{path.name}`: {what} contradicting labels, first rows {first} and {second}",
            code="data.contradiction",
        )
