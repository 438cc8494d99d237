"""What a fold's model said of pairs that it never saw, kept on disk so that it is trained once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criteria_cli.study.durable import private_folder, read_json, write_json
from criteria_cli.training.calibration import Calibration

SCHEMA = "criteria.heldout/1"


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One fold: a model trained on a part of its training pairs, calibrated on the rest of them,
    and scored on its validation pairs, which chose nothing."""

    fold: int
    pairs: NDArray[np.int64]
    """The validation pairs, by index in the corpus."""
    scores: NDArray[np.float32]
    """(pairs,) their log-odds."""
    calibration: Calibration
    """Fitted on the inner pairs alone."""
    inner_pairs: int
    """How many of the training pairs chose epoch, temperature and thresholds."""
    best_epoch: int
    epochs: int
    costs: Mapping[str, float]
    evidence: Mapping[str, float] | None = None
    """Precision at 1 of leave-one-sentence-out, chance, and pairs; None without annotations."""

    def save(self, folder: Path, fingerprint: str) -> None:
        """Put it on disk."""
        private_folder(folder)
        content = asdict(self) | {
            "schema": SCHEMA,
            "fingerprint": fingerprint,
            "pairs": self.pairs.tolist(),
            "scores": self.scores.tolist(),
            "calibration": self.calibration.to_json(),
        }
        write_json(_path(folder, self.fold), content)

    @classmethod
    def load(cls, folder: Path, fold: int, fingerprint: str) -> HeldOut | None:
        """The fold as it was saved; None where it was not, or with other settings or data."""
        content: dict[str, Any] | None = read_json(_path(folder, fold))
        if content is None or content.pop("fingerprint", None) != fingerprint:
            return None
        if content.pop("schema", None) != SCHEMA:
            return None
        content["pairs"] = np.array(content["pairs"], dtype=np.int64)
        content["scores"] = np.array(content["scores"], dtype=np.float32)
        content["calibration"] = Calibration.from_json(content["calibration"])
        return cls(**content)


def _path(folder: Path, fold: int) -> Path:
    return folder / f"fold-{fold}.json"
