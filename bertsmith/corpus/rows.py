"""Rows of tables into texts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from bertsmith.corpus.bad import FEWEST_TO_JUDGE, ROWS, count_bad, refuse_bad, warn_of
from bertsmith.corpus.kinds import Source
from bertsmith.corpus.lines import PART_BYTES, Range, line_number, parts_of
from bertsmith.corpus.records import open_records
from bertsmith.corpus.tables import (
    NOT_UNICODE,
    Columns,
    Record,
    field_of,
    has_column,
    is_unicode,
    one_object,
    text_of,
)
from bertsmith.errors import CorpusError

_LINES = (".jsonl", ".ndjson")


def read_texts(
    source: Source, part: Range | None, columns: Columns, left_out: Counter[str], *, is_all: bool
) -> Iterator[str]:
    """The text of each row of a file or a part of it.

    Rows without a text are counted in `left_out` by reason, and the first of each reason is warned
    of with its place.

    Args:
        source: a table.
        part: of `parts_of_table`.
        columns: which one, and how much may be bad.
        left_out: what is counted so far.
        is_all: whether the corpus is this file.

    Raises:
        CorpusError: the file cannot be read, or has no such column; it is all there is and has too
            many bad rows.
    """

    def num_before() -> int:
        return line_number(source.file, part[0]) - 1 if part and source.format in _LINES else 0

    wanted = [columns.text]
    rows = open_records(source, part, wanted=wanted).rows(wanted)
    if source.format == ".json":
        rows = _refuse_one_object(source, rows, columns)
    is_whole = is_all and part is None
    yield from good_texts(
        str(source.file), rows, columns, left_out, is_whole=is_whole, num_before=num_before
    )


def good_texts(
    source: str,
    rows: Iterable[Record],
    columns: Columns,
    left_out: Counter[str],
    *,
    is_whole: bool,
    num_before: Callable[[], int] = lambda: 0,
) -> Iterator[str]:
    """The texts of `rows` that have one; the others are counted and warned of.

    Args:
        source: what they are rows of, for messages.
        rows: of the column, or of the one above it where it is a field of a field.
        columns: which one, and how much may be bad.
        left_out: also counts all rows.
        is_whole: whether these are all rows of the corpus, so that they can be judged here; parts
            are judged together by whoever reads them.
        num_before: counts the lines before those that the numbers of rows count.
    """
    seen: Counter[str] = Counter()  # of this source alone
    first: list[str] = []  # of each reason, with its place
    for row in rows:
        left_out[ROWS.total] += 1
        seen[ROWS.total] += 1
        text, problem = _text(row, columns)
        if not problem:
            yield text
        else:
            if count_bad(ROWS, problem, seen):
                first.append(f"row {row.number}: {problem}")
            if count_bad(ROWS, problem, left_out):
                warn_of(f"{source}, row {num_before() + row.number}", problem)
        if is_whole and seen[ROWS.total] % FEWEST_TO_JUDGE == 0:
            refuse_bad(source, seen, columns.max_bad_rows, first=first)
    if is_whole:
        refuse_bad(source, seen, columns.max_bad_rows, first=first)


def parts_of_table(source: Source) -> list[Range | None]:
    """Parts of a table that can be read apart from one another; [None]: the whole."""
    if source.format in _LINES and not source.ends_lines_with_cr:
        return parts_of(source.file, at_empty_lines=False)
    if source.format == ".parquet":
        from bertsmith.corpus.parquet import parquet_parts

        return parquet_parts(source.file, PART_BYTES)
    return [None]  # a quoted text may hold line breaks: only a reader knows where rows end


def _text(row: Record, columns: Columns) -> tuple[str, str]:
    """The text of a row; and why it has none, or nothing."""
    if row.problem:
        return "", row.problem
    if not has_column(row.fields, columns.text):
        return "", f"no column {columns.text!r}"
    value = field_of(row.fields, columns.text)
    text = text_of(value)
    if text is None:
        is_null = value is None
        return "", f"its text is {'null' if is_null else f'no text ({type(value).__name__})'}"
    if not is_unicode(text):
        return "", NOT_UNICODE
    return text, "a NUL byte" if "\0" in text else ""


def _refuse_one_object(
    source: Source, rows: Iterator[Record], columns: Columns
) -> Iterator[Record]:
    """`rows`. Raises: `CorpusError`, if all there is is one object that is no row."""
    first = list(itertools.islice(rows, 1))
    if first and _text(first[0], columns)[1]:
        first += itertools.islice(rows, 1)
        if len(first) == 1:
            raise CorpusError(one_object(source.file, first[0].fields))
    yield from itertools.chain(first, rows)
