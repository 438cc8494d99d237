"""Predictions for a file of posts: read, scored and written piece by piece.

What is done stands beside the result under another name, with a note of how far it is whole, so
that a stopped run goes on from there; where it was changed since, everything is made anew. Only a
finished result gets its name.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from criteria_cli.data.tables import read_table, wrong_row
from criteria_cli.errors import Saved, UsageError
from criteria_cli.study.prediction import (
    PredictOrder,
    PredictProgress,
    PredictReport,
    PredictResult,
)
from criteria_cli.training.export import RECORD
from criteria_cli.training.predict import Predictor
from criteria_cli.training.prediction_writer import FORMATS, PredictionWriter, pyarrow
from criteria_cli.training.tensor_files import sha256_of
from criteria_cli.training.threads import settle

_POSTS = 32
"""Posts scored between two signs of life."""
_TEXT_COLUMNS = ("post", "text")
_EITHER = " or ".join(f"`{name}`" for name in _TEXT_COLUMNS)


def predict_file(order: PredictOrder, report: PredictReport) -> PredictResult:
    """Score every post of a file against every criterion of a model.

    Rows of the result: `post_id`, `criterion_id`, `probability`, `prediction`; with `evidence`, the
    places of the sentences that carry it; no text unless `include_text`.

    Raises:
        UsageError: input, model or output cannot be used.
        MachineError: no such device, or Parquet without pyarrow.
        Saved: `report` answered False; the same order goes on.
    """
    started = time.monotonic()
    if order.input.is_dir():
        raise UsageError(
            f"`{order.input.name}` is a folder, INPUT must be a file: CSV, JSONL or Parquet",
            code="predict.input",
        )
    _check_output(order)
    posts = _Posts(order)
    settle(order.threads)
    predictor = Predictor(order.model_dir, device=order.device)
    with PredictionWriter(order, posts.fingerprint, posts.total) as writer:
        counts, resumed = writer.counts, writer.counts.posts
        begun = time.monotonic()
        for chunk in _chunks(posts, counts.posts):
            predictions = predictor.predict(chunk, abstain=order.abstain, evidence=order.evidence)
            counts.cut += int(predictor.cut(list(chunk.values())).sum())
            writer.write(chunk, predictions)
            rate = (counts.posts - resumed) / max(time.monotonic() - begun, 1e-9)
            if not report(PredictProgress(counts.posts, posts.total, rate)):
                writer.save()
                raise Saved(
                    f"stopped after {counts.posts} of {posts.total} posts, all of them saved",
                    hint="run the same command again to go on",
                    code="saved.predict",
                )
        writer.finish()
    return PredictResult(
        out=order.out,
        posts=counts.posts,
        pairs=counts.pairs,
        positives=counts.positives,
        abstained=counts.abstained,
        cut=counts.cut,
        resumed=resumed,
        seconds=time.monotonic() - started,
    )


def _check_output(order: PredictOrder) -> None:
    if order.out.suffix.lower() not in FORMATS:
        raise UsageError(
            f"`{order.out.name}`: cannot write {order.out.suffix or 'a file without an ending'}, "
            "use .csv, .jsonl or .parquet",
            code="predict.format",
        )
    if order.out.exists() and order.out.samefile(order.input):
        raise UsageError(
            f"`{order.out.name}` is the input itself, it is not replaced",
            hint="name another file with --out",
            code="predict.exists",
        )
    if order.out.is_dir():
        raise UsageError(
            f"`{order.out.name}` is a folder, the result must be a file",
            hint="name another file with --out",
            code="predict.exists",
        )
    if order.out.exists() and not order.overwrite:
        raise UsageError(
            f"`{order.out.name}` exists already",
            hint="name another file with --out, or add --overwrite",
            code="predict.exists",
        )
    if not order.out.parent.is_dir():
        raise UsageError(f"the folder of `{order.out.name}` does not exist", code="predict.folder")
    if order.out.suffix.lower() == ".parquet":
        pyarrow()


class _Posts:
    """The posts of the input in its order, each id once."""

    def __init__(self, order: PredictOrder) -> None:
        self._order = order
        self._column = order.text_column or self._find_column()
        self.total = 0
        texts: dict[str, bytes] = {}
        for row, post_id, text in self._rows():
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if not post_id:
                raise wrong_row(order.input, row, "the post id is empty", code="data.post_id")
            if not text.strip():
                raise wrong_row(
                    order.input, row, f"column `{self._column}` is empty", code="data.blank"
                )
            if texts.setdefault(post_id, digest) != digest:
                raise wrong_row(
                    order.input, row, "the post id has had another text", code="data.two_texts"
                )
        self.total = len(texts)
        settings = [order.abstain, order.evidence, order.include_text, order.id_column]
        content = [sha256_of(order.input), self._column, settings, _model_digest(order.model_dir)]
        self.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        seen: set[str] = set()
        for _, post_id, text in self._rows():
            if post_id not in seen:
                seen.add(post_id)
                yield post_id, text

    def _rows(self) -> Iterator[tuple[int, str, str]]:
        try:
            for row, (post_id, text) in self._table(self._column):
                yield row, post_id.strip(), text
        except UsageError as error:
            raise _by_flags(error) from None

    def _find_column(self) -> str:
        for name in _TEXT_COLUMNS:
            try:
                next(self._table(name), None)
            except UsageError as error:
                missing = f"no column `{name}`"
                if error.code != "data.column" or missing not in error.message:
                    raise _by_flags(error) from None
                either = error.message.replace(missing, f"no column {_EITHER}")
                problem = UsageError(either, code=error.code)
                continue
            return name
        raise _by_flags(problem)

    def _table(self, text_column: str) -> Iterator[tuple[int, tuple[str, ...]]]:
        return read_table(self._order.input, (self._order.id_column, text_column))


def _by_flags(error: UsageError) -> UsageError:
    """The error with what to type here, where there is no study file."""
    if error.code != "data.column":
        return error
    return UsageError(
        error.message, hint="name them with --id-column and --text-column", code=error.code
    )


def _model_digest(directory: Path) -> str:
    record = directory / RECORD
    return sha256_of(record) if record.is_file() else ""


def _chunks(posts: _Posts, done: int) -> Iterator[dict[str, str]]:
    rest = islice(iter(posts), done, None)
    while chunk := dict(islice(rest, _POSTS)):
        yield chunk
