"""The rows of a prediction file, appended beside its place until they are whole."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from criteria_cli.errors import MachineError, UsageError
from criteria_cli.study.durable import read_json, write_json
from criteria_cli.study.prediction import PredictOrder
from criteria_cli.training.predict import Prediction
from criteria_cli.training.tensor_files import create_private

FORMATS = (".csv", ".jsonl", ".parquet")
_SAVE_S = 2.0
"""Seconds of work that a crash may cost."""
_PARQUET_ROWS = 10_000


@dataclass
class Counts:
    """How far a result is; kept with it."""

    posts: int = 0
    bytes: int = 0
    pairs: int = 0
    positives: int = 0
    abstained: int = 0
    cut: int = 0


class PredictionWriter:
    """The rows of a result, appended to a file beside it until it is whole.

    A context that closes the file; what was saved stays for the next time.
    """

    def __init__(self, order: PredictOrder, fingerprint: str) -> None:
        self._order = order
        self._fingerprint = fingerprint
        self._partial = order.out.with_name(f".{order.out.name}.partial")
        self._note = order.out.with_name(f".{order.out.name}.partial.json")
        self._csv = order.out.suffix.lower() == ".csv"
        self.counts = self._take_up()
        flags = os.O_RDWR | os.O_NOFOLLOW | (0 if self.counts.posts else os.O_CREAT | os.O_EXCL)
        try:
            if not self.counts.posts and not self._partial.is_symlink():
                self._partial.unlink(missing_ok=True)  # others could read what they made
            self._file = open(os.open(self._partial, flags, 0o600), "r+b")  # noqa: SIM115, PTH123
        except OSError as error:
            raise UsageError(
                f"cannot write beside `{order.out.name}`: {(error.strerror or '').lower()}",
                code="predict.folder",
            ) from error
        self._file.truncate(self.counts.bytes)
        self._file.seek(self.counts.bytes)
        self._saved_at = time.monotonic()
        if self._csv and not self.counts.bytes:
            self._append([self._columns()])

    def _take_up(self) -> Counts:
        note = read_json(self._note)
        if note is None or note.get("fingerprint") != self._fingerprint:
            return Counts()
        with suppress(KeyError, TypeError, OSError):
            counts = Counts(**note["counts"])
            if self._partial.stat().st_size >= counts.bytes:
                return counts
        return Counts()

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
            self._file.write(lines.encode("utf-8", "surrogatepass"))
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
        write_json(self._note, {"fingerprint": self._fingerprint, "counts": asdict(self.counts)})
        self._saved_at = time.monotonic()

    def finish(self) -> None:
        """Give the result its name."""
        self.save()
        self._file.close()
        if self._order.out.suffix.lower() == ".parquet":
            self._to_parquet()
        self._partial.replace(self._order.out)
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
        self._file.write(text.getvalue().encode("utf-8", "surrogatepass"))

    def _to_parquet(self) -> None:
        """Rewrite the finished lines as Parquet, in place of them."""
        arrow = pyarrow()
        schema = _schema(arrow, self._columns())
        target = self._partial.with_name(f"{self._partial.name}.parquet")
        with (
            self._partial.open(encoding="utf-8", errors="surrogatepass") as lines,
            os.fdopen(create_private(target), "wb") as file,
        ):
            # by descriptor: by its name it could be another file by now
            with arrow.parquet.ParquetWriter(file, schema) as writer:
                while rows := [json.loads(line) for line in islice(lines, _PARQUET_ROWS)]:
                    writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
            file.flush()
            os.fsync(file.fileno())
        target.replace(self._partial)


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
