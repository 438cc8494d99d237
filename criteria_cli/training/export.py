"""The directory people take home: an ordinary Hugging Face model with a record beside it.

Everything in it opens without `criteria`. `criteria.json` says what the numbers of the model mean
and how it was made; it holds definitions of criteria and numbers, never a text of the data.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from criteria_cli.data.criteria import Criterion, parse_criteria
from criteria_cli.errors import MachineError, UsageError
from criteria_cli.study.spec import ModelSpec
from criteria_cli.training.adapters import merged
from criteria_cli.training.calibration import Calibration
from criteria_cli.training.card import model_card
from criteria_cli.training.heads import Head
from criteria_cli.training.model import Encoder
from criteria_cli.training.tensor_files import sha256_of

SCHEMA = "criteria.model/1"
RECORD = "criteria.json"
CARD = "README.md"

_INPUT = ("max_length", "long_posts", "window_overlap", "max_windows", "window_pooling")
_OF_THE_MACHINE = ("name_or_path", "is_local", "local_files_only")
"""What tokenizers note about where they were loaded from."""


@dataclass(frozen=True)
class ModelRecord:
    """What `criteria.json` says."""

    criteria: tuple[Criterion, ...]
    """Those that it was trained on: of others it would say anything."""
    input: ModelSpec
    """How a pair becomes the model's input."""
    head: Head
    calibration: Calibration
    report: Mapping[str, Any]
    """Estimates, data, settings and versions, see `record.py`."""

    def to_json(self, files: Mapping[str, str]) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "criteria": [
                {"id": criterion.id, "name": criterion.name, "text": criterion.text}
                for criterion in self.criteria
            ],
            "input": {
                "order": ["post", "criterion"],
                "truncated": "post",
                "max_length": self.input.max_length,
                "long_posts": self.input.long_posts,
                "window_overlap": self.input.window_overlap,
                "max_windows": self.input.max_windows,
                "window_pooling": self.input.window_pooling,
            },
            "head": asdict(self.head),
            "calibration": self.calibration.to_json(),
            **self.report,
            "files": dict(files),
        }


def check_target(out: Path, *, overwrite: bool) -> None:
    """Refuse to write over something.

    Raises:
        UsageError: `out` exists and may not be replaced, or is not a model of ours.
    """
    if not out.exists():
        return
    if not overwrite:
        raise UsageError(
            f"`{out.name}` exists already",
            hint="name another directory with --out, or add --overwrite",
            code="train.exists",
        )
    if not (out / RECORD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"`{out.name}` is not a model that criteria wrote, it is not replaced",
            hint="name another directory with --out",
            code="train.exists",
        )


def write_model(out: Path, encoder: Encoder, record: ModelRecord, *, overwrite: bool) -> None:
    """Write the model directory, whole or not at all, readable by its owner alone.

    Raises:
        UsageError: as `check_target`.
        MachineError: it cannot be written.
    """
    check_target(out, overwrite=overwrite)
    try:
        _write_model(out, encoder, record)
    except (OSError, SafetensorError) as error:  # the latter on a full disk
        number = getattr(error, "errno", None)
        reason = os.strerror(number).lower() if number else "perhaps the disk is full"
        raise MachineError(
            f"cannot write the model to `{out.name}`: {reason}",
            hint="make room and run the same command again: nothing is trained twice",
            code="machine.disk",
        ) from error


def _write_model(out: Path, encoder: Encoder, record: ModelRecord) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        merged(encoder.module).save_pretrained(partial)
        _save_tokenizer(encoder, record.input, partial)
        files = {path.name: sha256_of(path) for path in sorted(partial.iterdir())}
        content = record.to_json(files)
        (partial / RECORD).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        (partial / CARD).write_text(model_card(content), encoding="utf-8")
        for path in partial.iterdir():
            path.chmod(0o600)
        _replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_record(directory: Path) -> tuple[ModelRecord, dict[str, Any]]:
    """What `criteria.json` of a model directory says, and the whole of it.

    Raises:
        UsageError: there is none, or none that this version reads.
    """
    path = directory / RECORD
    if not directory.is_dir():
        raise UsageError(f"model directory `{directory}` does not exist", code="model.missing")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["schema"]
    except FileNotFoundError:
        raise UsageError(
            f"`{directory}` has no {RECORD}, it was not written by `criteria train`",
            code="model.missing",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"`{directory}/{RECORD}` is damaged", code="model.damaged") from error
    if schema != SCHEMA:
        raise UsageError(
            f"`{directory}/{RECORD}` is `{schema}`, this criteria reads `{SCHEMA}`",
            code="model.schema",
        )
    try:
        taken = content["input"]
        record = ModelRecord(
            criteria=parse_criteria({"criteria": content["criteria"]}, f"{directory}/{RECORD}"),
            input=ModelSpec(
                name=str(directory), **{key: taken[key] for key in _INPUT if key in taken}
            ),
            head=_head(content["head"]),
            calibration=Calibration.from_json(content["calibration"]),
            report={},
        )
        record.calibration.check()
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise UsageError(f"`{directory}/{RECORD}` is damaged", code="model.damaged") from error
    return record, content


def _head(value: Mapping[str, Any]) -> Head:
    head = Head(**value)
    if not isinstance(head.outputs, int) or head.positive not in range(head.outputs):
        raise ValueError("the head's positive class is none of its outputs")
    return head


def _save_tokenizer(encoder: Encoder, spec: ModelSpec, directory: Path) -> None:
    tokenizer = encoder.tokenizer
    before = tokenizer.model_max_length
    tokenizer.model_max_length = spec.max_length  # so that other libraries cut where we do
    try:
        tokenizer.save_pretrained(directory)
    finally:
        tokenizer.model_max_length = before
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in _OF_THE_MACHINE:
        config.pop(key, None)
    if config.get("tokenizer_class") == "TokenizersBackend":
        # transformers 5's name for it; 4 and 5 both know this one
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=1) + "\n")


def _replace(partial: Path, out: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
    old = out.rename(aside / out.name)
    try:
        partial.rename(out)
    except BaseException:
        old.rename(out)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
