"""Tables of texts: JSON lines, CSV, TSV and Parquet. A row has a text, and maybe a name."""

from __future__ import annotations

import csv
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from bertsmith.corpus.document import BAD_ROW, NUM_ROWS
from bertsmith.corpus.lines import (
    LONGEST_LINE,
    PART_BYTES,
    Range,
    line_number,
    parts_of,
    read_lines,
)
from bertsmith.corpus.opened import File, format_of, opened
from bertsmith.errors import CorpusError

ROW_FORMATS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_ROWS_AT_ONCE = 1024
FEWEST_TO_JUDGE = 100_000
"""Rows; before the end of a file bad ones may only stand together."""


@dataclass(frozen=True)
class Columns:
    """How tables are read."""

    text: str = "text"
    """The column that holds the text."""
    name: str | None = None
    """The column that names each row's document; None: they have no names."""
    max_bad_rows: float = 0.01
    """Largest share of rows that may be unreadable."""


@dataclass(frozen=True)
class Text:
    """A row's text, or why it has none."""

    value: Any
    name: Any = ""
    problem: str = ""


Rows = Iterable[tuple[int, Text]]
"""Rows with their numbers: the lines of a file on which they end, or the places in a table."""


def read_texts(
    file: File, part: Range | None, columns: Columns, left_out: Counter[str]
) -> Iterator[tuple[str, str]]:
    """The text and the name ("" without a column of names) of each row of `file`, or a part of it.

    Rows without a text are counted in `left_out` by reason, and the first of each reason is warned
    of with its place.

    Raises:
        CorpusError: the file cannot be read, has no such column, or too many bad rows.
    """
    if format_of(file) == ".parquet":
        rows: Rows = _parquet(file, part, columns)
    elif format_of(file) in (".csv", ".tsv"):
        rows = _csv(file, columns)
    else:
        rows = _json_lines(file, part, columns)
    yield from good_texts(str(file), rows, columns, left_out, is_whole=part is None)


def good_texts(
    source: str, rows: Rows, columns: Columns, left_out: Counter[str], *, is_whole: bool
) -> Iterator[tuple[str, str]]:
    """The texts and names of `rows` that have a text; the others are counted and warned of.

    Args:
        source: what they are rows of, for messages.
        rows: with their numbers.
        columns: how much may be bad.
        left_out: also counts `NUM_ROWS`.
        is_whole: whether these are all, so that they can be judged at the end; parts are judged
            together by whoever reads them.
    """
    num_rows = num_bad = 0
    told: dict[str, str] = {}  # reasons, with the first place of each
    for number, row in rows:
        num_rows += 1
        left_out[NUM_ROWS] += 1
        if isinstance(row.value, str) and not row.problem:
            name = "" if row.name is None else str(row.name)
            yield row.value, name if _is_unicode(name) else ""
            continue
        reason = row.problem or f"its text is {_kind(row.value)}"
        left_out[BAD_ROW + reason] += 1
        num_bad += 1
        if reason not in told:
            told[reason] = f"row {number}: {reason}"
            warnings.warn(f"{source}, row {number}: {reason}; left out.", stacklevel=2)
        if num_rows >= FEWEST_TO_JUDGE:
            refuse_bad_rows(source, num_bad, num_rows, columns, told.values())
    if is_whole:
        refuse_bad_rows(source, num_bad, num_rows, columns, told.values())


def refuse_bad_rows(
    source: str, num_bad: int, num_rows: int, columns: Columns, reasons: Iterable[str]
) -> None:
    """Raise `CorpusError` if more than the set share of rows has no text, for these reasons."""
    if num_bad > columns.max_bad_rows * num_rows:
        raise CorpusError(
            f"{source} must have a text in its column {columns.text!r} in all but "
            f"{columns.max_bad_rows:.1%} of its rows; {num_bad} have none "
            f"({'; '.join(list(reasons)[:3])}). "
            "Mend it, name other columns with --text-column and --id-column, or raise "
            "--max-bad-rows."
        )


def parts_of_table(file: File) -> list[Range | None]:
    """Parts of a table that can be read apart from one another; [None]: the whole."""
    kind = format_of(file)
    if kind in (".jsonl", ".ndjson"):
        return parts_of(file, at_empty_lines=False)
    if kind != ".parquet":  # a quoted text may hold line breaks: only a reader knows where rows end
        return [None]
    with opened(file) as stream, _table(file, stream) as table:
        cuts, size = [0], 0
        for group in range(table.num_row_groups):
            if size >= PART_BYTES:
                cuts, size = [*cuts, group], 0
            size += table.metadata.row_group(group).total_byte_size
        ends = [*cuts[1:], table.num_row_groups]
    return list(zip(cuts, ends, strict=True)) if len(cuts) > 1 else [None]


def _kind(value: object) -> str:
    return "null" if value is None else f"no text ({type(value).__name__})"


def _json_lines(file: File, part: Range | None, columns: Columns) -> Rows:
    before = 0 if part is None else None  # lines before the part; counted when it is asked for
    for number, line in enumerate(read_lines(file, part), start=1):
        if line.isspace():
            continue
        row = _parse(line, columns)
        if row.problem or not isinstance(row.value, str):
            if before is None and part is not None:
                before = line_number(file, part[0]) - 1
            number += before or 0
        yield number, row


def _parse(line: str, columns: Columns) -> Text:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return Text(None, problem="not JSON")
    if not isinstance(row, dict):
        return Text(None, problem="not a JSON object")
    for column in filter(None, (columns.text, columns.name)):
        if column not in row:
            return Text(None, problem=f"no column {column!r}")
    if "\\ud" in line.lower() and not _is_unicode(row[columns.text]):
        return Text(None, problem="not Unicode (half of a surrogate pair)")
    return Text(row[columns.text], row[columns.name] if columns.name else "")


def _is_unicode(value: object) -> bool:
    """Whether text is made of whole characters; JSON's escapes may write halves."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def _csv(file: File, columns: Columns) -> Rows:
    csv.field_size_limit(LONGEST_LINE)
    # Strict: a quote that is never closed would take the rest of the file for one text.
    delimiter = "\t" if format_of(file) == ".tsv" else ","
    reader = csv.reader(read_lines(file), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        for column in filter(None, (columns.text, columns.name)):
            if column not in header:
                raise CorpusError(no_column(str(file), column, header))
        place = header.index(columns.text)
        name = header.index(columns.name) if columns.name else None
        for row in reader:
            if len(row) > len(header):
                yield reader.line_num, Text(None, problem="more columns than the header has")
            elif max(place, name or 0) < len(row):
                yield reader.line_num, Text(row[place], "" if name is None else row[name])
            elif row:
                yield reader.line_num, Text(None, problem=f"no column {columns.text!r}")
    except csv.Error as error:
        raise CorpusError(
            f"{file}, line {reader.line_num}: not a table: {error}. Quotes that are part of a text "
            "must be doubled, in quotes; JSON lines need no such care."
        ) from error


def _parquet(file: File, part: Range | None, columns: Columns) -> Rows:
    import pyarrow

    with opened(file) as stream, _table(file, stream) as table:
        wanted = list(filter(None, (columns.text, columns.name)))
        for column in wanted:
            if column not in table.schema_arrow.names:
                raise CorpusError(no_column(str(file), column, table.schema_arrow.names))
        first, end = part or (0, table.num_row_groups)
        number = sum(table.metadata.row_group(group).num_rows for group in range(first))
        try:
            groups = list(range(first, end))
            for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=wanted):
                names = batch[columns.name] if columns.name else [""] * len(batch)
                for value, name in zip(batch[columns.text], names, strict=True):
                    number += 1
                    yield number, Text(value.as_py(), name.as_py() if columns.name else "")
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise CorpusError(f"{file} is damaged, or no Parquet: {error}.") from error


def _table(file: File, stream: IO[bytes]) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(stream)
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{file} is damaged, or no Parquet: {error}.") from error


def no_column(source: str, column: str, names: list[str]) -> str:
    """What is said of a table without the column that is asked for."""
    known = ", ".join(map(repr, names[:20])) or "none"
    return (
        f"{source} must have a column {column!r}; it has {known}. "
        "Name one with --text-column (--id-column for names)."
    )
