"""Rows of a CSV, JSONL or Parquet file, as text and without guessing.

A cell that says `NA`, `null` or `nan` is that text. Rows are numbered as a person counts them: in a
CSV file the header is row 1, in JSONL a row is a line, in Parquet the first row is 1.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from criteria_cli.errors import MachineError, UsageError

SUFFIXES = (".csv", ".jsonl", ".parquet")
NAME = re.compile(r"[A-Za-z0-9_][\w.\-]{0,39}")
"""What a message may show of a file: something that looks like a name."""

Row = tuple[int, tuple[str, ...]]
"""A row's number and its cells."""


def read_table(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), *, delimiter: str = ","
) -> Iterator[Row]:
    """The rows of a table with their cells in the order of `columns`, then `optional`.

    A missing value, and every value of a missing optional column, is an empty text. Line ends
    within a cell become `\\n`, so that a file's own line ends do not matter.

    Raises:
        UsageError: the file is missing, of another kind, damaged, empty, or lacks a column.
        MachineError: a Parquet file, and pyarrow is not installed.
    """
    check_table(path)
    reader = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    empty = True
    for row in reader[path.suffix.lower()](path, columns, optional, delimiter):
        empty = False
        yield row
    if empty:
        raise UsageError(f"`{path.name}` has no rows", code="data.empty")


def check_table(path: Path) -> None:
    """Refuse what is not a readable CSV, JSONL or Parquet file.

    Raises:
        UsageError: it does not exist, is a folder, is of another kind or may not be read.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        raise UsageError(
            f"`{path.name}` is a folder, format `pairs` reads one file",
            hint='a folder with posts and annotations has `data.format = "redsm5"`',
            code="data.kind",
        )
    if suffix in (".pkl", ".pickle"):
        raise UsageError(
            f"`{path.name}`: pickle files are not read (they can run code), "
            "use .csv, .jsonl or .parquet",
            code="data.kind",
        )
    if suffix not in SUFFIXES:
        raise UsageError(
            f"`{path.name}`: cannot read {suffix or 'a file without an ending'}, "
            "use .csv, .jsonl or .parquet",
            code="data.kind",
        )
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise UsageError(
            f"data file `{path.name}` does not exist (from `data.path`)",
            hint="say where it is: --data FILE",
            code="data.missing",
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot read `{path.name}`: {(error.strerror or 'unknown').lower()}",
            code="data.unreadable",
        ) from None


def wrong_row(path: Path, row: int, what: str, *, code: str, hint: str = "") -> UsageError:
    """An error about one row; `what` holds no cell."""
    return UsageError(f"`{path.name}` row {row}: {what}", code=code, hint=hint)


def _csv_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str], delimiter: str
) -> Iterator[Row]:
    records = _csv_records(path, delimiter)
    _, header = next(records, (0, []))
    header = [name.strip() for name in header]
    if not header:
        return
    if len(header) == 1 and columns[0] != header[0]:
        for other in (";", "\t", "|", ","):
            if other != delimiter and other in header[0]:
                shown = "\\t" if other == "\t" else other
                raise UsageError(
                    f"`{path.name}` has a single column, is the delimiter `{shown}`?",
                    hint=f'data.delimiter = "{shown}"',
                    code="data.delimiter",
                )
    _check_columns(path, header, columns)
    places = [header.index(name) for name in columns]
    places += [header.index(name) if name in header else -1 for name in optional]
    for number, record in records:
        if len(record) != len(header):
            raise UsageError(
                f"`{path.name}` row {number} has {_count(len(record), 'field')}, "
                f"the header has {len(header)}",
                code="data.ragged",
            )
        yield number, tuple(_unix(record[place]) if place >= 0 else "" for place in places)


def _csv_records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, record in enumerate(csv.reader(file, delimiter=delimiter, strict=True), 1):
                if record:
                    yield number, record
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except csv.Error:
        raise wrong_row(
            path, number + 1, "a quotation mark is not closed or not doubled", code="data.quote"
        ) from None


def _jsonl_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str], _delimiter: str
) -> Iterator[Row]:
    first = True
    for number, value in _jsonl_objects(path):
        if first:
            _check_columns(path, list(value), columns)
            first = False
        for name in columns:
            if name not in value:
                raise wrong_row(path, number, f"there is no `{name}`", code="data.column")
        yield number, _cells(path, number, value, (*columns, *optional))


def _jsonl_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):  # a number of too many digits is the former
                    value = None
                if not isinstance(value, dict):
                    raise UsageError(
                        f"`{path.name}` line {number} is not a JSON object", code="data.jsonl"
                    )
                yield number, value
    except UnicodeDecodeError:
        raise _not_utf8(path) from None


def _parquet_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str], _delimiter: str
) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MachineError(
            "reading Parquet needs pyarrow",
            hint="pip install 'criteria[parquet]'",
            code="machine.pyarrow",
        ) from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            _check_columns(path, names, columns)
            wanted = [*columns, *(name for name in optional if name in names)]
            for batch in file.iter_batches(columns=wanted):
                for value in batch.to_pylist():
                    number += 1
                    yield number, _cells(path, number, value, (*columns, *optional))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError):
        raise UsageError(f"`{path.name}` is damaged or not Parquet", code="data.parquet") from None


def _cells(path: Path, row: int, value: dict[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    cells = []
    for name in names:
        cell = value.get(name)
        if cell is not None and not isinstance(cell, (str, bool, int, float)):
            raise wrong_row(path, row, f"`{name}` must be text or a number", code="data.value")
        text = "" if cell is None else str(cell)
        if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
            raise wrong_row(path, row, f"`{name}` has half a character", code="data.encoding")
        cells.append(_unix(text))
    return tuple(cells)


def _check_columns(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    for name in columns:
        if header.count(name) > 1:
            raise UsageError(
                f"`{path.name}` has {header.count(name)} columns `{name}`", code="data.column"
            )
        if name not in header:
            looks_right = all(NAME.fullmatch(other) for other in header)
            found = (
                f"it has: {', '.join(header)}"
                if looks_right
                else "its first row does not look like column names"
            )
            raise UsageError(
                f"`{path.name}` has no column `{name}`, {found}",
                hint="name its columns under [data.columns]",
                code="data.column",
            )


def _not_utf8(path: Path) -> UsageError:
    with path.open("rb") as file:
        line = next((at for at, content in enumerate(file, 1) if not _is_utf8(content)), 1)
    return UsageError(
        f"`{path.name}` is not UTF-8 (line {line})", hint="save it as UTF-8", code="data.encoding"
    )


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
