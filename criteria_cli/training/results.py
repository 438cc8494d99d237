"""What a trial leaves on disk: a file per finished fold, and one for the whole.

`fold-K.json` is written before the fold is reported, and its presence is what makes a fold
finished: it is never trained again. `fold-K.safetensors` beside it holds the scores of the fold's
validation pairs, by index in the corpus; no text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from criteria_cli.errors import TrialFailed
from criteria_cli.study.durable import private_folder, write_json
from criteria_cli.study.trial import EpochReport, FoldReport, Outcome
from criteria_cli.training.tensor_files import sha256_of, write_tensors

_log = logging.getLogger(__name__)

FOLD_SCHEMA = "criteria.fold/1"
TRIAL_SCHEMA = "criteria.trial/1"


class TrialFolder:
    """A trial's folder, `runs/NAME/trial-N`.

    Args:
        folder: private; made when something is written.
        fingerprint: of settings, data and folds; results with another one are refused.
        through: as `write_json` has it.
    """

    def __init__(self, folder: Path, fingerprint: str, *, through: Path | None = None) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self._through = through

    def save_fold(
        self,
        report: FoldReport,
        epochs: Sequence[EpochReport],
        pairs: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> None:
        """Put a finished fold on disk.

        Args:
            pairs: (validation pairs,) indices in the corpus.
            scores: their log-odds at the best epoch.

        Raises:
            OSError: it cannot be written.
        """
        private_folder(self.folder)
        tensors = {"pairs": torch.from_numpy(pairs), "scores": torch.from_numpy(scores)}
        digest = write_tensors(self._scores(report.fold), tensors, through=self._through)
        write_json(
            self._fold(report.fold),
            {
                "schema": FOLD_SCHEMA,
                "fingerprint": self.fingerprint,
                "report": asdict(report),
                "epochs": [asdict(epoch) for epoch in epochs],
                "scores_sha256": digest,
            },
            through=self._through,
        )

    def load_fold(self, fold: int) -> FoldReport | None:
        """A finished fold, or None; one whose files are damaged counts as not finished.

        Raises:
            TrialFailed: `data`, it was trained with other settings or data.
        """
        path = self._fold(fold)
        try:
            content = json.loads(path.read_bytes())
            report = FoldReport(**content["report"])
            fingerprint = content["fingerprint"]
            whole = content["schema"] == FOLD_SCHEMA
            whole = whole and sha256_of(self._scores(fold)) == content["scores_sha256"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            whole, fingerprint = False, ""
        if not whole:
            _log.warning("`%s/%s` is damaged and not used", self.folder.name, path.name)
            return None
        if fingerprint != self.fingerprint:
            raise TrialFailed(
                "data",
                f"`{self.folder.name}/{path.name}` was trained with other settings or data",
                hint="remove that folder to train the trial anew",
            )
        return report

    def load_scores(self, fold: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Validation pairs of a finished fold and their scores."""
        tensors = load_file(self._scores(fold))
        return tensors["pairs"].numpy(), tensors["scores"].numpy()

    def save_result(self, outcome: Outcome, settings: dict[str, Any]) -> None:
        """Put the trial's end on disk.

        Raises:
            OSError: it cannot be written.
        """
        private_folder(self.folder)
        content = {
            "schema": TRIAL_SCHEMA,
            "fingerprint": self.fingerprint,
            "settings": settings,
            **asdict(outcome),
        }
        write_json(self.folder / "result.json", content, through=self._through)

    def _fold(self, fold: int) -> Path:
        return self.folder / f"fold-{fold}.json"

    def _scores(self, fold: int) -> Path:
        return self.folder / f"fold-{fold}.safetensors"
