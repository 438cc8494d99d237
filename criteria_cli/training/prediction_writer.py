"""The rows of a prediction file, appended beside its place until they are whole."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from criteria_cli.errors import MachineError, UsageError
from criteria_cli.study.durable import read_json, write_json
from criteria_cli.study.prediction import PredictOrder
from criteria_cli.training.predict import Prediction
from criteria_cli.training.tensor_files import create_private

FORMATS = (".csv", ".jsonl", ".parquet")
_SAVE_S = 2.0
"""Seconds of work that a crash may cost."""
_PARQUET_ROWS = 10_000
_BLOCK = 2**20


@dataclass
class Counts:
    """How far a result is; kept with it."""

    posts: int = 0
    bytes: int = 0
    pairs: int = 0
    positives: int = 0
    abstained: int = 0
    cut: int = 0

    def possible(self, total: int) -> bool:
        """Whether a result of at most `total` posts can be this far."""
        values = list(asdict(self).values())
        return (
            all(type(value) is int and value >= 0 for value in values)
            and 0 < self.posts <= total
            and self.bytes > 0
            and self.pairs >= self.posts
            and self.positives + self.abstained <= self.pairs
            and self.cut <= self.posts
        )


class PredictionWriter:
    """The rows of a result, appended to a file beside it until it is whole.

    A context that closes the file; what was saved stays for the next time.

    Args:
        total: posts of the input.
    """

    def __init__(self, order: PredictOrder, fingerprint: str, total: int) -> None:
        self._order = order
        self._fingerprint = fingerprint
        self._partial = order.out.with_name(f".{order.out.name}.partial")
        self._note = order.out.with_name(f".{order.out.name}.partial.json")
        self._parquet = order.out.with_name(f".{order.out.name}.partial.parquet")
        self._csv = order.out.suffix.lower() == ".csv"
        self.counts = Counts()
        self._written = hashlib.blake2b()
        """Of all that is in the file, so that a note can say of what it is."""
        try:
            self._file = self._take_up(total) or self._begin()
        except OSError as error:
            raise UsageError(
                f"cannot write beside `{order.out.name}`: {(error.strerror or '').lower()}",
                code="predict.folder",
            ) from error
        self._saved_at = time.monotonic()
        if self._csv and not self.counts.bytes:
            self._append([self._columns()])

    def _take_up(self, total: int) -> BinaryIO | None:
        """The file as it was saved, or None: what cannot be trusted to the last byte is made anew,
        for its rows would stand in the result unseen."""
        note = read_json(self._note)
        if note is None or note.get("fingerprint") != self._fingerprint:
            return None
        try:
            counts = Counts(**note["counts"])
            if not counts.possible(total):
                return None
            file = os.fdopen(os.open(self._partial, os.O_RDWR | os.O_NOFOLLOW), "r+b")
        except (KeyError, TypeError, OSError):
            return None
        written = _digest_of(file, counts.bytes)
        if written is None or _seal(written, counts) != note.get("seal"):
            file.close()
            return None
        self.counts, self._written = counts, written
        file.truncate(counts.bytes)
        file.seek(counts.bytes)
        return file

    def _begin(self) -> BinaryIO:
        for old in (self._note, self._parquet):
            old.unlink(missing_ok=True)  # or fail now, not after hours of work
        if self._partial.is_symlink():
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        return os.fdopen(create_private(self._partial), "r+b")

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        with suppress(OSError):  # what is not on the disk is not counted either
            self._file.close()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(
                f"cannot write `{self._order.out.name}`: {os.strerror(error.errno).lower()}",
                hint="make room and run the same command again to go on",
                code="machine.disk",
            ) from error

    def write(self, posts: Mapping[str, str], predictions: Sequence[Prediction]) -> None:
        """Append the rows of some posts."""
        rows = [self._row(prediction, posts[prediction.post_id]) for prediction in predictions]
        if self._csv:
            self._append([list(row.values()) for row in rows])
        else:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            self._put(lines)
        self.counts.posts += len(posts)
        self.counts.pairs += len(predictions)
        self.counts.positives += sum(each.prediction == "present" for each in predictions)
        self.counts.abstained += sum(each.prediction == "abstain" for each in predictions)
        if time.monotonic() - self._saved_at >= _SAVE_S:
            self.save()

    def save(self) -> None:
        """Bring what is written to the disk, and note how far it is."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self.counts.bytes = self._file.tell()
        note = {
            "fingerprint": self._fingerprint,
            "counts": asdict(self.counts),
            "seal": _seal(self._written, self.counts),
        }
        write_json(self._note, note)
        self._saved_at = time.monotonic()

    def finish(self) -> None:
        """Give the result its name."""
        self.save()
        self._file.close()
        parquet = self._order.out.suffix.lower() == ".parquet"
        whole = self._to_parquet() if parquet else self._partial
        whole.replace(self._order.out)
        self._partial.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _columns(self) -> list[str]:
        columns = ["post_id", "criterion_id", "probability", "prediction"]
        if self._order.evidence:
            columns.append("evidence")
        if self._order.include_text:
            columns.append("post")
        return columns

    def _row(self, prediction: Prediction, text: str) -> dict[str, Any]:
        row: dict[str, Any] = {
            "post_id": prediction.post_id,
            "criterion_id": prediction.criterion_id,
            "probability": round(prediction.probability, 6),
            "prediction": prediction.prediction,
        }
        if self._order.evidence:
            row["evidence"] = self._evidence(prediction, text)
        if self._order.include_text:
            row["post"] = text
        return row

    def _evidence(self, prediction: Prediction, text: str) -> Any:
        named = []
        for weight in prediction.evidence:
            span = weight.span
            sentence: dict[str, Any] = {
                "sentence": weight.sentence,
                "start": span.start,
                "end": span.end,
                "drop": round(weight.drop, 4),
            }
            if self._order.include_text:
                sentence["text"] = text[span.start : span.end]
            named.append(sentence)
        return json.dumps(named, ensure_ascii=False) if self._csv else named

    def _append(self, rows: list[list[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._put(text.getvalue())

    def _put(self, text: str) -> None:
        content = text.encode("utf-8", "surrogatepass")
        self._file.write(content)
        self._written.update(content)

    def _to_parquet(self) -> Path:
        """Rewrite the finished lines as Parquet, beside them; the file."""
        arrow = pyarrow()
        schema = _schema(arrow, self._columns())
        with (
            self._partial.open(encoding="utf-8", errors="surrogatepass") as lines,
            os.fdopen(create_private(self._parquet), "wb") as file,
        ):
            # by descriptor: by its name it could be another file by now
            with arrow.parquet.ParquetWriter(file, schema) as writer:
                while rows := [json.loads(line) for line in islice(lines, _PARQUET_ROWS)]:
                    writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
            file.flush()
            os.fsync(file.fileno())
        return self._parquet


def _digest_of(file: BinaryIO, size: int) -> hashlib.blake2b | None:
    """Of the first bytes of a file; None if it has fewer, or is no file."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return None
    digest = hashlib.blake2b()
    while size:
        block = file.read(min(size, _BLOCK))
        if not block:
            return None
        digest.update(block)
        size -= len(block)
    return digest


def _seal(written: hashlib.blake2b, counts: Counts) -> str:
    """A digest of rows and counts: neither is gone on from without the other."""
    both = written.copy()
    both.update(json.dumps(asdict(counts), sort_keys=True).encode())
    return both.hexdigest()


def _schema(arrow: Any, columns: list[str]) -> Any:
    kinds = {
        "probability": arrow.float64(),
        "evidence": arrow.list_(
            arrow.struct(
                {
                    "sentence": arrow.int32(),
                    "start": arrow.int32(),
                    "end": arrow.int32(),
                    "drop": arrow.float64(),
                    "text": arrow.string(),
                }
            )
        ),
    }
    return arrow.schema([(name, kinds.get(name, arrow.string())) for name in columns])


def pyarrow() -> Any:
    """The library that writes Parquet.

    Raises:
        MachineError: it is not installed.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet
    except ImportError:
        raise MachineError(
            "writing Parquet needs pyarrow",
            hint="pip install 'criteria[parquet]'",
            code="machine.pyarrow",
        ) from None
    return arrow
