"""The ReDSM5 layout (Bao, Pérez and Parapar, 2025): a folder with posts and annotations.

`*posts*.csv` has `post_id`, `text` and perhaps `group_id`; `*annotations*.csv` has `post_id`,
`sentence_text`, `DSM5_symptom`, `status` and perhaps `sentence_id`. Every post is held against
every criterion. A pair is positive when any of its annotations has status 1; its other annotations
do not count, and a pair without annotations is negative.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from criteria_cli.data.corpus import Corpus, Draft, assemble, readable_by_others
from criteria_cli.data.criteria import Criterion, criterion_index
from criteria_cli.data.posts import PostList, read_label, unknown_criterion
from criteria_cli.data.tables import read_table, wrong_row
from criteria_cli.errors import UsageError
from criteria_cli.study.spec import DataSpec

NO_CRITERION = frozenset({"SPECIAL_CASE"})
"""ReDSM5's mark for clinically notable sentences outside the nine criteria."""

ANNOTATION_COLUMNS = ("post_id", "DSM5_symptom", "status", "sentence_text")

Annotation = tuple[int, int, bool, str]
"""Position of the post, position of the criterion, whether it is shown, the sentence."""


def load_redsm5(folder: Path, criteria: tuple[Criterion, ...], spec: DataSpec) -> Corpus:
    """The corpus of a ReDSM5 folder.

    Raises:
        UsageError: a file is missing, or a row cannot be used.
    """
    posts_path, annotations_path = find_files(folder)
    group = spec.columns.group
    posts = PostList(posts_path, "text")
    required = ("post_id", "text") if group is None else ("post_id", "text", group)
    optional = ("group_id",) if group is None else ()
    for row, cells in read_table(posts_path, required, optional, delimiter=spec.delimiter):
        posts.add(row, *cells)
    posts.close()
    annotations, ignored, repeated = _annotations(annotations_path, posts, criteria, spec)
    draft = cross(posts.ids, posts.texts, posts.groups, annotations, criteria)
    draft = replace(
        draft,
        collapsed=posts.repeated + repeated,
        ignored=ignored,
        warnings=readable_by_others((posts_path, annotations_path)),
    )
    return assemble(draft, criteria, annotations_path.name)


def find_files(folder: Path) -> tuple[Path, Path]:
    """The posts and the annotations of a ReDSM5 folder.

    Raises:
        UsageError: the folder or one of the files is missing, or there are several.
    """
    if not folder.is_dir():
        is_file = folder.exists()
        raise UsageError(
            f"`{folder.name}` is a file, format `redsm5` reads a folder (from `data.path`)"
            if is_file
            else f"data folder `{_named(folder)}` does not exist (from `data.path`)",
            hint='one table of pairs has `data.format = "pairs"`'
            if is_file
            else "say where it is: --data FOLDER",
            code="data.missing",
        )
    annotations = _only(folder, "annotations", sorted(folder.glob("*annotations*.csv")))
    candidates = [path for path in sorted(folder.glob("*posts*.csv")) if path != annotations]
    return _only(folder, "posts", candidates), annotations


def _named(folder: Path) -> str:
    """A folder below this one by its path; another by its name, which tells nothing of a home."""
    whole, here = folder.absolute(), Path.cwd()
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else folder.name


def cross(
    post_ids: list[str],
    texts: list[str],
    groups: list[str],
    annotations: Iterable[Annotation],
    criteria: tuple[Criterion, ...],
) -> Draft:
    """Every post against every criterion, positive where an annotation says so."""
    label = np.zeros((len(post_ids), len(criteria)), dtype=np.int8)
    evidence: dict[tuple[int, int], list[str]] = {}
    for post, criterion, positive, sentence in annotations:
        if positive:
            label[post, criterion] = 1
            if sentence.strip():
                evidence.setdefault((post, criterion), []).append(sentence)
    posts, columns = np.divmod(np.arange(label.size), len(criteria))
    return Draft(post_ids, texts, groups, posts, columns, label.ravel(), evidence)


def _annotations(
    path: Path, posts: PostList, criteria: tuple[Criterion, ...], spec: DataSpec
) -> tuple[list[Annotation], int, int]:
    """The annotations, the number of ignored rows and the number of repeated ones."""
    index = criterion_index(criteria)
    annotations: dict[tuple[Annotation, str], None] = {}
    rows = ignored = 0
    for row, (post_id, symptom, status, sentence, sentence_id) in read_table(
        path, ANNOTATION_COLUMNS, ("sentence_id",), delimiter=spec.delimiter
    ):
        post = posts.position.get(post_id.strip())
        if post is None:
            raise wrong_row(
                path, row, f"`post_id` is not in `{posts.path.name}`", code="data.unknown_post"
            )
        positive = read_label(path, row, "status", status)
        criterion = index.get(symptom.strip())
        if criterion is None:
            if symptom.strip() not in NO_CRITERION:
                raise unknown_criterion(path, row, symptom, spec.criteria, criteria)
            ignored += 1
            continue
        rows += 1
        annotations[(post, criterion, positive, sentence), sentence_id] = None
    return [annotation for annotation, _ in annotations], ignored, rows - len(annotations)


def _only(folder: Path, kind: str, found: list[Path]) -> Path:
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} files" if found else "no file"
    raise UsageError(
        f"data folder `{folder.name}` has {what} `*{kind}*.csv`, expected one",
        code="data.missing" if not found else "data.ambiguous",
    )
