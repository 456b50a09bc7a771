"""What is said of the rows of any table: its columns, and a row's text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bertsmith.corpus.opened import File
from bertsmith.errors import CorpusError

DELIMITERS = (",", ";", "|", "\t")
"""Of CSV; the first whose header has the columns that are asked for."""


@dataclass(frozen=True)
class Columns:
    """How tables of a corpus are read."""

    text: str = "text"
    """The column that holds the text; `a.b` is the field b of the column a."""
    max_bad_rows: float = 0.01
    """Largest share of rows (of lines, of files) that may be unreadable."""


class Record(NamedTuple):
    """A row of a table."""

    number: int
    """Of the line on which it ends, counted in the part that is read; without lines, its place in
    the table, from 1."""
    fields: dict[str, Any]
    """By column, of the columns that were asked for at least."""
    problem: str = ""
    """Why it cannot be read, in a few words, the same for all of a kind; empty: it can."""


TOO_LONG = "over 16 MiB"
NOT_UTF8 = "not UTF-8"
NOT_UNICODE = "not Unicode (half of a surrogate pair, or bytes that are not UTF-8)"


def text_of(value: object) -> str | None:
    """The text in a column: itself, or the strings of a list as its paragraphs; None: no text."""
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return "\n".join(value)
    return value if isinstance(value, str) else None


def field_of(row: dict[str, Any], column: str) -> Any:
    """What a row has in `column`, or in a field of a column; of null null. Raises: `KeyError`."""
    if column in row:
        return row[column]
    first, dot, rest = column.partition(".")
    if not dot or not isinstance(row[first], dict | None):
        raise KeyError(column)
    return None if row[first] is None else field_of(row[first], rest)


def has_column(row: dict[str, Any], column: str) -> bool:
    """Whether a row has `column`, maybe as a field of a column; null counts as having its fields.

    Data sets write null for the whole of a field that is empty.
    """
    if column in row:
        return True
    first, dot, rest = column.partition(".")
    if not dot or first not in row:
        return False
    return row[first] is None or (isinstance(row[first], dict) and has_column(row[first], rest))


def is_unicode(value: object) -> bool:
    """Whether text is made of whole characters; JSON's escapes may write halves."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def csv_header(head: bytes, ending: str, wanted: Sequence[str]) -> list[str]:
    """The fields of the first line, by the delimiter of `delimiter_of`, or that gives the most."""
    line = head.decode(errors="replace").removeprefix("\ufeff")
    line = line.replace("\r\n", "\n").replace("\r", "\n")
    if ending == ".tsv":
        return line.partition("\n")[0].split("\t")
    every = [_fields(line, delimiter) for delimiter in DELIMITERS]
    return next((one for one in every if set(wanted) <= set(one)), max(every, key=len))


def delimiter_of(header: str, wanted: Sequence[str]) -> str:
    """What parts the fields of a CSV file, by its first line: the columns asked for are there."""
    for delimiter in DELIMITERS:
        if set(wanted) <= set(_fields(header, delimiter)):
            return delimiter
    return ","


def _fields(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line), delimiter=delimiter), [])
    except csv.Error:
        return []


def fields_of(
    source: object, lines: Iterable[str], delimiter: str, *, has_quotes: bool
) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row that is not empty, with the number of the line on which it ends.

    Args:
        source: for messages.
        lines: with their ends.
        delimiter: what parts the fields.
        has_quotes: whether quotes hold a field together, as in CSV (RFC 4180). A quote that is
            never closed is then an error: it would take the rest of the file for one text.

    Raises:
        CorpusError: it is no table.
    """
    if not has_quotes:  # a quote is part of the text, as in GLUE's files
        for number, line in enumerate(lines, start=1):
            if row := line.rstrip("\r\n"):
                yield number, row.split(delimiter)
        return
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise CorpusError(
            f"{source}, line {reader.line_num}: not a table: {error}. Quotes that are part of a "
            "text must be doubled, in quotes; JSON lines need no such care."
        ) from error


def listed(names: Sequence[str]) -> str:
    """The first names, and of each the beginning."""
    known = [repr(name if len(name) <= 40 else f"{name[:40]}…") for name in names[:12]]
    return ", ".join([*known, "…"] if len(names) > 12 else known) or "none"


def no_column(source: object, column: str, names: Sequence[str]) -> str:
    """What is said of a table without the column that is asked for."""
    return (
        f"{source} must have a column {column!r}; it has {listed(names)}. "
        "Name one with --text-column (a.b is the field b of a)."
    )


def refuse_columns(source: object, columns: Iterable[str], header: Sequence[str]) -> None:
    """Raise `CorpusError` if a table has not each of `columns`, and has it once."""
    for column in columns:
        if column not in header:
            raise CorpusError(no_column(source, column, header))
        if header.count(column) > 1:
            raise CorpusError(
                f"{source} must have one column {column!r}; it has several. Rename all but one."
            )


def one_object(file: File, found: dict[str, Any]) -> str:
    """What is said of JSON that is no table."""
    known = listed([*found])
    rows = next((name for name, value in found.items() if isinstance(value, list)), "rows")
    return (
        f"{file} must hold rows, as JSON lines or one array of objects; it holds an object with "
        f"{known}. Write its rows one a line, as with: jq -c '.{rows}[]'."
    )
