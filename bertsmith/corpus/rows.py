"""Tables of texts: JSON lines, CSV, TSV and Parquet. A row is a document, its lines paragraphs."""

from __future__ import annotations

import csv
import json
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith.corpus.lines import LONGEST_LINE, read_lines
from bertsmith.corpus.opened import format_of
from bertsmith.errors import CorpusError

ROW_FORMATS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_ROWS_AT_ONCE = 1024
_FEWEST_TO_JUDGE = 100_000  # rows; before the end of a file bad ones may only stand together

csv.field_size_limit(LONGEST_LINE)


@dataclass(frozen=True)
class Columns:
    """How tables are read."""

    text: str = "text"
    """The column that holds the text."""
    max_bad_rows: float = 0.01
    """Largest share of rows that may be unreadable."""


@dataclass(frozen=True)
class _Bad:
    """Why a row has no text."""

    reason: str


def read_texts(file: Path, columns: Columns, left_out: Counter[str]) -> Iterator[str]:
    """The text of each row of `file`.

    Rows without one are counted in `left_out` by reason, and the first of each reason is warned of
    with its place.

    Raises:
        CorpusError: the file cannot be read, has no such column, or too many bad rows.
    """
    kind = format_of(file)
    rows = {".parquet": _parquet, ".csv": _csv, ".tsv": _csv}.get(kind, _json_lines)
    number = num_bad = 0
    told: set[str] = set()
    for place, value in rows(file, columns.text):
        number += 1
        if isinstance(value, str):
            yield value
            continue
        reason = value.reason if isinstance(value, _Bad) else f"its text is {_kind(value)}"
        left_out[f"rows: {reason}"] += 1
        num_bad += 1
        if reason not in told:
            told.add(reason)
            warnings.warn(f"{file}, row {place}: {reason}; left out.", stacklevel=2)
        _refuse_too_many(file, num_bad, max(number, _FEWEST_TO_JUDGE), columns)
    _refuse_too_many(file, num_bad, number, columns)


def _refuse_too_many(file: Path, num_bad: int, num_rows: int, columns: Columns) -> None:
    if num_bad > columns.max_bad_rows * num_rows:
        raise CorpusError(
            f"{file} must have a text in its column {columns.text!r} in all but "
            f"{columns.max_bad_rows:.1%} of its rows; {num_bad} have none. "
            "Mend it, or raise --max-bad-rows."
        )


def _kind(value: object) -> str:
    return "null" if value is None else f"no text ({type(value).__name__})"


def _json_lines(file: Path, column: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(read_lines(file), start=1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            yield number, _Bad("not JSON")
            continue
        if not isinstance(row, dict):
            yield number, _Bad("not a JSON object")
        elif column not in row:
            yield number, _Bad(f"no column {column!r}")
        else:
            yield number, row[column]


def _csv(file: Path, column: str) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(read_lines(file), delimiter="\t" if format_of(file) == ".tsv" else ",")
    try:
        header = next(reader, [])
        if column not in header:
            raise CorpusError(_no_column(file, column, header))
        place = header.index(column)
        for row in reader:
            if row:
                found = row[place] if place < len(row) else _Bad(f"no column {column!r}")
                yield reader.line_num, found
    except csv.Error as error:
        raise CorpusError(f"{file}, line {reader.line_num}: not a table: {error}.") from error


def _parquet(file: Path, column: str) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            if column not in table.schema_arrow.names:
                raise CorpusError(_no_column(file, column, table.schema_arrow.names))
            for batch in table.iter_batches(_ROWS_AT_ONCE, columns=[column]):
                for value in batch[column]:
                    number += 1
                    yield number, value.as_py()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file} is damaged, or no Parquet: {error}.") from error


def _no_column(file: Path, column: str, names: list[str]) -> str:
    known = ", ".join(map(repr, names[:20])) or "none"
    return f"{file} must have a column {column!r}; it has {known}. Name one with --text-column."
