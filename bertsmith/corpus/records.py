"""Rows of tables with all their columns: TSV, CSV, JSON lines, JSON arrays, Parquet."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bertsmith.corpus.lines import LONGEST_LINE, read_lines
from bertsmith.corpus.opened import File, format_of, opened
from bertsmith.corpus.tables import fields_of
from bertsmith.errors import CorpusError

FORMATS = (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".parquet")

_LARGEST_ARRAY = 2**28
"""Bytes of JSON that are one array; it is read as a whole."""

Record = dict[str, Any] | None
"""A row by column; None: more fields than the header has."""


@dataclass(frozen=True)
class Records:
    """A table that has been opened."""

    header: list[str]
    """Names of the columns."""
    rows: Callable[[Sequence[str]], Iterator[tuple[int, Record]]]
    """Reads the rows, with these columns at least: each with its number, which is that of the line
    on which it ends, or, without lines, its place from 1. To be called once."""


def open_records(
    file: File,
    *,
    delimiter: str | None = None,
    header_of: Callable[[list[str]], list[str] | None] = lambda first: None,
) -> Records:
    """Open a table of one of `FORMATS`; all but Parquet may be packed.

    Args:
        file: a quote in a TSV is part of a text; one in a CSV holds a field together. `.json` is an
            array of objects, or an object a line.
        delimiter: between fields; default: tabs in TSV, commas in CSV.
        header_of: the names of the columns of a table that has no header, by its first row.

    Raises:
        CorpusError: it cannot be read, has no rows, or two columns of one name.
    """
    kind = format_of(file)
    if kind in (".tsv", ".csv"):
        return _separated(file, kind, delimiter, header_of)
    if kind == ".parquet":
        return _parquet(file)
    rows = list(_array(file) if kind == ".json" and _is_array(file) else _json_lines(file))
    header = list(dict.fromkeys(name for _, row in rows for name in row or {}))
    return Records(header, lambda columns: iter(rows))


def _separated(
    file: File,
    kind: str,
    delimiter: str | None,
    header_of: Callable[[list[str]], list[str] | None],
) -> Records:
    csv.field_size_limit(LONGEST_LINE)
    is_csv = kind == ".csv"
    found = fields_of(
        file,
        read_lines(file),
        delimiter or ("," if is_csv else "\t"),
        has_quotes=is_csv,
        hint="--delimiter says what parts the columns.",
    )
    number, first = next(found)
    header = header_of(first)
    row: tuple[int, list[str]] | None = (number, first)
    if header is None:
        header, row = _different(file, first), next(found, None)
    if row is None:
        raise CorpusError(f"{file} must have rows under its header; it has none.")
    names, following = header, itertools.chain([row], found)

    def rows(columns: Sequence[str]) -> Iterator[tuple[int, Record]]:
        for number, fields in following:
            fits = len(fields) <= len(names)
            yield number, dict(zip(names, fields, strict=False)) if fits else None

    return Records(names, rows)


def _different(file: File, header: list[str]) -> list[str]:
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise CorpusError(f"{file} must have columns of different names; {twice!r} is there twice.")
    return header


def _json_lines(file: File) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(read_lines(file), start=1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{file}, line {number} must be JSON: {error}.") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{file}, line {number} must be a JSON object; it is not.")
        yield number, row


def _is_array(file: File) -> bool:
    """Whether what is not white space begins with a bracket."""
    with opened(file) as stream:
        return stream.read(2**16).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _array(file: File) -> Iterator[tuple[int, Record]]:
    with opened(file) as stream:
        content = stream.read(_LARGEST_ARRAY + 1)
    if len(content) > _LARGEST_ARRAY:
        raise CorpusError(
            f"{file} must be at most {_LARGEST_ARRAY // 2**20} MiB as one JSON array; it is "
            "longer. Write an object a line (.jsonl)."
        )
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{file} must be JSON: {error}.") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise CorpusError(f"{file}, row {number} must be a JSON object; it is not.")
        yield number, row


def _parquet(file: File) -> Records:
    from bertsmith.corpus.parquet import names_in, rows_of_columns  # pyarrow takes a while to load

    def rows(columns: Sequence[str]) -> Iterator[tuple[int, Record]]:
        for number, row in rows_of_columns(file, None, columns):
            yield number, {column: field.value for column, field in zip(columns, row, strict=True)}

    return Records(_different(file, names_in(file)), rows)
