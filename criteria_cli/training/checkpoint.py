"""A fold in the middle: saved whole, found again after any crash.

A checkpoint is two files, tensors as safetensors and a manifest as JSON, which holds the tensors'
sha256, where training stood, and the fingerprint of everything that the result depends on. The
manifest is written last: without it there is no checkpoint. Two are kept, so that a damaged one
costs the work since the one before. Nothing is ever unpickled.

The random state is not stored, for there is none: every step seeds its own generators from the
trial's seed and its position (`seeds.py`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from criteria_cli.errors import TrialFailed
from criteria_cli.study.durable import digest_of, private_folder, write_json
from criteria_cli.training.tensor_files import sha256_of, write_tensors

_log = logging.getLogger(__name__)

SCHEMA = "criteria.checkpoint/1"
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What `Checkpoints.save` was given."""

    position: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    """On the host."""


class Checkpoints:
    """The checkpoints of one fold in a folder.

    Args:
        folder: private; made with the first checkpoint.
        fold: its number.
        fingerprint: of settings, data and folds; a checkpoint with another one is not used.
        through: as `write_json` has it.
    """

    def __init__(
        self, folder: Path, fold: int, fingerprint: str, *, through: Path | None = None
    ) -> None:
        self._folder = folder
        self._stem = f"fold-{fold}-"
        self._fingerprint = fingerprint
        self._through = through

    def save(self, position: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint; older ones than the one before it go.

        Args:
            position: where training stands, as JSON values.
            tensors: on any device.

        Raises:
            TrialFailed: `disk`, the checkpoint cannot be written.
        """
        numbers = self._numbers()
        number = max(numbers, default=0) + 1
        try:
            private_folder(self._folder)
            digest = write_tensors(self._tensors(number), tensors, through=self._through)
            content = {
                "schema": SCHEMA,
                "fingerprint": self._fingerprint,
                "tensors_sha256": digest,
                "position": dict(position),
            }
            manifest = {**content, "sha256": digest_of(content)}
            write_json(self._manifest(number), manifest, through=self._through)
            for old in sorted(numbers)[: -(KEPT - 1) or None]:
                self._remove(old)
        except (OSError, SafetensorError) as error:
            raise TrialFailed(
                "disk", f"a checkpoint cannot be written: {_reason(error)}"
            ) from error

    def load(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None.

        A damaged one is left out with a line in the log.

        Raises:
            TrialFailed: `data`, the checkpoint was made with other settings or data.
        """
        for number in sorted(self._numbers(), reverse=True):
            manifest = self._whole_manifest(number)
            if manifest is None:
                _log.warning("checkpoint `%s` is damaged and not used", self._manifest(number).name)
                continue
            if manifest["fingerprint"] != self._fingerprint:
                raise TrialFailed(
                    "data",
                    f"`{self._folder.parent.name}/{self._folder.name}` holds checkpoints of other "
                    "settings or data",
                    hint="remove that folder to train the trial anew",
                )
            return Checkpoint(manifest["position"], load_file(self._tensors(number)))
        return None

    def discard(self) -> None:
        """Remove all of them: the fold is finished."""
        for number in self._numbers():
            self._remove(number)
        for partial in self._folder.glob(f"{self._stem}*.partial"):
            partial.unlink(missing_ok=True)

    def _whole_manifest(self, number: int) -> dict[str, Any] | None:
        try:
            manifest = json.loads(self._manifest(number).read_bytes())
            digest = manifest.pop("sha256")
            if manifest["schema"] != SCHEMA or digest != digest_of(manifest):
                return None
            if sha256_of(self._tensors(number)) != manifest["tensors_sha256"]:
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return dict(manifest)

    def _numbers(self) -> list[int]:
        names = (path.stem.removeprefix(self._stem) for path in self._manifests())
        return [int(name) for name in names if name.isdecimal()]

    def _manifests(self) -> list[Path]:
        return list(self._folder.glob(f"{self._stem}*.json"))

    def _manifest(self, number: int) -> Path:
        return self._folder / f"{self._stem}{number:06}.json"

    def _tensors(self, number: int) -> Path:
        return self._folder / f"{self._stem}{number:06}.safetensors"

    def _remove(self, number: int) -> None:
        self._manifest(number).unlink(missing_ok=True)  # first: without it there is no checkpoint
        self._tensors(number).unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """What the system said, without a path."""
    number = getattr(error, "errno", None)
    return os.strerror(number).lower() if number else type(error).__name__
