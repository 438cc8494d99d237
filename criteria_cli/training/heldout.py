"""What a fold's model said of pairs that it never saw, kept on disk so that it is trained once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criteria_cli.study.durable import digest_of, private_folder, read_json, write_json
from criteria_cli.training.calibration import Calibration
from criteria_cli.training.tensor_files import refuse_in_the_way

SCHEMA = "criteria.heldout/2"


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
        """Put it on disk.

        Raises:
            MachineError: something else stands in its place.
        """
        path = _path(folder, self.fold)
        refuse_in_the_way(path)
        private_folder(folder)
        content = asdict(self) | {
            "schema": SCHEMA,
            "fingerprint": fingerprint,
            "pairs": self.pairs.tolist(),
            "scores": self.scores.tolist(),
            "calibration": self.calibration.to_json(),
        }
        write_json(path, content | {"sha256": digest_of(content)})

    @classmethod
    def load(cls, folder: Path, fold: int, fingerprint: str) -> HeldOut | None:
        """The fold as it was saved; None where it was not, or with other settings or data, or where
        the file has changed since.

        Raises:
            MachineError: something else stands in its place; told before a fold is trained.
        """
        path = _path(folder, fold)
        refuse_in_the_way(path)
        content: dict[str, Any] | None = read_json(path)
        if content is None:
            return None
        digest = content.pop("sha256", None)
        if digest != digest_of(content):
            return None
        if content.pop("fingerprint", None) != fingerprint:
            return None
        if content.pop("schema", None) != SCHEMA:
            return None
        try:
            content["pairs"] = np.array(content["pairs"], dtype=np.int64)
            content["scores"] = np.array(content["scores"], dtype=np.float32)
            content["calibration"] = Calibration.from_json(content["calibration"])
            found = cls(**content)
            found._check(fold)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return None
        return found

    def _check(self, fold: int) -> None:
        """Raise ValueError or TypeError unless everything has its shape and is finite."""
        if self.pairs.ndim != 1 or not self.pairs.size or self.pairs.shape != self.scores.shape:
            raise ValueError("every pair needs a score")
        if self.pairs.min() < 0 or len(np.unique(self.pairs)) != len(self.pairs):
            raise ValueError("pairs are named by index, each once")
        counts = (self.fold, self.inner_pairs, self.best_epoch, self.epochs)
        if self.fold != fold or any(type(count) is not int or count < 0 for count in counts):
            raise ValueError("a fold, epochs and pairs are counted")
        numbers = [*self.costs.values(), *(self.evidence or {}).values()]
        if not np.isfinite(self.scores).all() or not np.isfinite(numbers).all():
            raise ValueError("every number is finite")
        self.calibration.check()


def _path(folder: Path, fold: int) -> Path:
    return folder / f"fold-{fold}.json"
