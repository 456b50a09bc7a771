"""Rows of tables into texts: JSON, CSV, TSV and Parquet. A row has a text, and maybe a name."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Iterator

from bertsmith.corpus.bad import FEWEST_TO_JUDGE, ROWS, count_bad, refuse_bad, warn_of
from bertsmith.corpus.json_rows import rows_of_lines, rows_of_objects
from bertsmith.corpus.kinds import Source
from bertsmith.corpus.lines import LONGEST_LINE, PART_BYTES, Range, parts_of, raw_lines
from bertsmith.corpus.tables import (
    NOT_UNICODE,
    NOT_UTF8,
    TOO_LONG,
    Columns,
    Row,
    Rows,
    delimiter_of,
    fields_of,
    is_unicode,
    no_column,
    text_of,
    two_columns,
)
from bertsmith.errors import CorpusError


def read_texts(
    source: Source, part: Range | None, columns: Columns, left_out: Counter[str], *, is_all: bool
) -> Iterator[tuple[str, str]]:
    """The text and the name ("" without a column of names) of each row of a file or a part of it.

    Rows without a text are counted in `left_out` by reason, and the first of each reason is warned
    of with its place.

    Args:
        source: a table.
        part: of `parts_of_table`.
        columns: which, and how much may be bad.
        left_out: what is counted so far.
        is_all: whether the corpus is this file.

    Raises:
        CorpusError: the file cannot be read, or has no such column; it is all there is and has too
            many bad rows.
    """
    if source.format == ".parquet":
        from bertsmith.corpus.parquet import rows_of_parquet  # pyarrow takes a while to load

        rows: Rows = rows_of_parquet(source.file, part, columns)
    elif source.format in (".csv", ".tsv"):
        rows = _separated(source, columns)
    elif source.format == ".json":
        rows = rows_of_objects(source, columns)
    else:
        rows = rows_of_lines(source, part, columns)
    is_whole = is_all and part is None
    yield from good_texts(str(source.file), rows, columns, left_out, is_whole=is_whole)


def good_texts(
    source: str, rows: Rows, columns: Columns, left_out: Counter[str], *, is_whole: bool
) -> Iterator[tuple[str, str]]:
    """The texts and names of `rows` that have a text; the others are counted and warned of.

    Args:
        source: what they are rows of, for messages.
        rows: with their numbers.
        columns: how much may be bad.
        left_out: also counts all rows.
        is_whole: whether these are all rows of the corpus, so that they can be judged here; parts
            are judged together by whoever reads them.
    """
    seen: Counter[str] = Counter()  # of this source alone
    first: list[str] = []  # of each reason, with its place
    for number, row in rows:
        left_out[ROWS.total] += 1
        seen[ROWS.total] += 1
        text = None if row.problem else text_of(row.value)
        if text is not None and is_unicode(text) and "\0" not in text:
            name = "" if row.name is None else str(row.name)
            yield text, name if is_unicode(name) else ""
        else:
            reason = row.problem or _problem_of(text, row.value)
            if count_bad(ROWS, reason, seen):
                first.append(f"row {number}: {reason}")
            if count_bad(ROWS, reason, left_out):
                warn_of(f"{source}, row {number}", reason)
        if is_whole and seen[ROWS.total] % FEWEST_TO_JUDGE == 0:
            refuse_bad(source, seen, columns.max_bad_rows, first=first)
    if is_whole:
        refuse_bad(source, seen, columns.max_bad_rows, first=first)


def parts_of_table(source: Source) -> list[Range | None]:
    """Parts of a table that can be read apart from one another; [None]: the whole."""
    if source.format in (".jsonl", ".ndjson") and not source.ends_lines_with_cr:
        return parts_of(source.file, at_empty_lines=False)
    if source.format == ".parquet":
        from bertsmith.corpus.parquet import parquet_parts

        return parquet_parts(source.file, PART_BYTES)
    return [None]  # a quoted text may hold line breaks: only a reader knows where rows end


def _problem_of(text: str | None, value: object) -> str:
    """Why a value is no text."""
    if text is not None:
        return "a NUL byte" if is_unicode(text) else NOT_UNICODE
    return f"its text is {'null' if value is None else f'no text ({type(value).__name__})'}"


def _separated(source: Source, columns: Columns) -> Rows:
    """Rows of CSV, or of TSV, whose fields are taken as they stand."""
    csv.field_size_limit(LONGEST_LINE)
    lines = _lines(source)
    header_line = next(lines, "")
    is_csv = source.format == ".csv"
    rows = fields_of(
        source.file,
        itertools.chain([header_line], lines),
        delimiter_of(header_line, columns) if is_csv else "\t",
        has_quotes=is_csv,
    )
    _, header = next(rows, (1, []))
    for column in columns.wanted:
        if column not in header:
            raise CorpusError(no_column(source.file, column, header))
        if header.count(column) > 1:
            raise CorpusError(two_columns(source.file, column))
    place = header.index(columns.text)
    name = header.index(columns.name) if columns.name else None
    for number, row in rows:
        yield number, _row(row, len(header), place, name, columns)


def _row(row: list[str], num_columns: int, place: int, name: int | None, columns: Columns) -> Row:
    if len(row) > num_columns:
        return Row(problem="more columns than the header has")
    if max(place, name or 0) >= len(row):
        return Row(problem=f"no column {columns.text!r}")
    text = row[place]
    if not is_unicode(text):
        return Row(problem=NOT_UTF8)
    return Row(text, "" if name is None else row[name])


def _lines(source: Source) -> Iterator[str]:
    """Lines in which bytes that are no UTF-8 are halves of surrogate pairs.

    A line alone need not be a row, so that rows are held against UTF-8, and not lines.
    """
    for place, raw in raw_lines(source.file, cr=source.ends_lines_with_cr):
        if len(raw) > LONGEST_LINE:
            raise CorpusError(
                f"{source.file} must have rows that are not {TOO_LONG}; the line at byte {place} "
                "is. Write it as JSON lines, of which such a one is left out."
            )
        line = raw.decode(errors="surrogateescape")
        yield line if place else line.removeprefix("\ufeff")
