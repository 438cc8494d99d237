"""The words of `criteria predict`: what is ordered, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Decision = Literal["present", "absent", "abstain"]


@dataclass(frozen=True)
class PredictOrder:
    """Score the posts of one file."""

    model_dir: Path
    input: Path
    """CSV, JSONL or Parquet."""
    out: Path
    """CSV, JSONL or Parquet, by its ending. Half-written results stand beside it and are gone on
    from."""
    overwrite: bool = False
    device: str = "auto"
    threads: int = 1
    abstain: bool = False
    """Say `abstain` where a decision is too close to its threshold."""
    evidence: bool = False
    """Name the sentences that carry each positive decision."""
    include_text: bool = False
    """Write the posts, and the sentences of `evidence`, into the result."""
    id_column: str = "post_id"
    text_column: str | None = None
    """Without one, `post` or else `text`."""


@dataclass(frozen=True)
class PredictProgress:
    """How far it is."""

    posts: int
    total: int
    posts_per_s: float | None = None


PredictReport = Callable[[PredictProgress], bool]
"""Hears of progress; False stops, with everything saved."""


@dataclass(frozen=True)
class PredictResult:
    """What `criteria predict` wrote."""

    out: Path
    posts: int
    pairs: int
    positives: int
    abstained: int
    cut: int
    """Posts that did not fit whole."""
    resumed: int
    """Posts that an earlier, stopped run had done."""
    seconds: float
