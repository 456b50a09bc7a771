"""Rows of tables by column: TSV, CSV, JSON, Parquet."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from bertsmith.corpus.json_rows import rows_of_lines, rows_of_objects
from bertsmith.corpus.kinds import Source
from bertsmith.corpus.lines import LONGEST_LINE, Range, raw_lines
from bertsmith.corpus.opened import File
from bertsmith.corpus.tables import TOO_LONG, Record, delimiter_of, fields_of, refuse_columns
from bertsmith.errors import CorpusError


@dataclass(frozen=True)
class Records:
    """A table, or a part of one."""

    header: Callable[[], list[str] | None]
    """Gives the names of the columns; None: each row has its own, as in JSON."""
    rows: Callable[[Sequence[str]], Iterator[Record]]
    """Reads the rows, with these columns at least; to be called once. Raises: `CorpusError`, if
    they cannot be read, or the header has not each of these columns once."""


def open_records(
    source: Source,
    part: Range | None = None,
    *,
    wanted: Sequence[str] = (),
    delimiter: str | None = None,
    header_of: Callable[[list[str]], list[str] | None] = lambda first: None,
) -> Records:
    """Open a table.

    Args:
        source: a table. A quote in a TSV is part of a text; one in a CSV holds a field together.
        part: of `rows.parts_of_table`; None: the whole.
        wanted: columns that must be there, by which the delimiter of a CSV is found.
        delimiter: between fields of CSV and TSV; None: in CSV, as `delimiter_of` finds it; tabs.
        header_of: the names of the columns of a table that has no header, by its first row.

    Raises:
        CorpusError: it cannot be read.
    """
    if source.format in (".csv", ".tsv"):
        return _separated(source, wanted, delimiter, header_of)
    if source.format == ".parquet":
        from bertsmith.corpus import parquet  # pyarrow takes a while to load

        return Records(
            partial(parquet.names_in, source.file),
            partial(parquet.rows_of_parquet, source.file, part),
        )
    is_lines = source.format != ".json"
    rows = rows_of_lines(source, part) if is_lines else rows_of_objects(source)
    return Records(lambda: None, lambda columns: rows)


def _separated(
    source: Source,
    wanted: Sequence[str],
    delimiter: str | None,
    header_of: Callable[[list[str]], list[str] | None],
) -> Records:
    csv.field_size_limit(LONGEST_LINE)
    is_csv = source.format == ".csv"
    lines = _lines(source)
    first_line = next(lines, "")
    if delimiter is None:
        delimiter = delimiter_of(first_line, wanted) if is_csv else "\t"
    lines = itertools.chain([first_line], lines)
    rows = fields_of(source.file, lines, delimiter, has_quotes=is_csv)
    number, first = next(rows, (1, []))
    header = header_of(first)
    if header is None:
        header = first
    else:
        rows = itertools.chain([(number, first)], rows)
    return Records(lambda: header, partial(_by_column, source.file, header, rows))


def _by_column(
    file: File, header: list[str], rows: Iterable[tuple[int, list[str]]], columns: Sequence[str]
) -> Iterator[Record]:
    refuse_columns(file, columns, header)
    places = {column: header.index(column) for column in columns}
    for number, row in rows:
        if len(row) > len(header):
            yield Record(number, {}, "more columns than the header has")
        else:
            fields = {column: row[place] for column, place in places.items() if place < len(row)}
            yield Record(number, fields)


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
