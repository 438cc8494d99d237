"""The formats that a study's `[data]` may have, each a function to a corpus.

A format of your own is one more function and one more line in `FORMATS`, and its name in
`DataSpec.format`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from criteria_cli.data.corpus import Corpus
from criteria_cli.data.criteria import Criterion, load_criteria
from criteria_cli.data.pairs import load_pairs
from criteria_cli.data.redsm5 import load_redsm5
from criteria_cli.data.synthetic import synthetic_corpus
from criteria_cli.study.spec import DataSpec

Load = Callable[[Path, tuple[Criterion, ...], DataSpec], Corpus]
"""From `data.path`, the criteria and the section to a corpus."""


def load_corpus(spec: DataSpec, base: Path) -> Corpus:
    """The pairs that a definition's `[data]` describes.

    Args:
        spec: the section.
        base: the folder that relative paths start from.

    Raises:
        UsageError: the data cannot be used; the message names file, row and column, never a cell.
        MachineError: a Parquet file, and pyarrow is not installed.
    """
    criteria = load_criteria(spec.criteria, base)
    path = base / Path(spec.path or ".").expanduser()
    return FORMATS[spec.format](path, criteria, spec)


def _generate(_path: Path, criteria: tuple[Criterion, ...], spec: DataSpec) -> Corpus:
    return synthetic_corpus(spec.posts, criteria)


FORMATS: Mapping[str, Load] = {
    "redsm5": load_redsm5,
    "pairs": load_pairs,
    "synthetic": _generate,
}
