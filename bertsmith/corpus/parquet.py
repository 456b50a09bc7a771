"""Rows of Parquet, in memory that the file's size bounds and not what its encodings multiply.

A few kilobytes may hold a value of gigabytes, or one that a dictionary repeats a million times. So
columns are read in batches of as many rows as may be large, a list's strings stay entries of their
dictionary, and what is over `LONGEST_LINE` is never made a string of Python's.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from bertsmith.corpus.lines import LONGEST_LINE, Range
from bertsmith.corpus.opened import File, opened
from bertsmith.corpus.tables import NOT_UTF8, TOO_LONG, Record, refuse_columns
from bertsmith.errors import CorpusError

_ROWS_AT_ONCE = 1024
_FEW_ROWS = 32  # at once of a large group, of which any may be long
_BATCH_BYTES = 2**28
_MOST_AT_ONCE = 2**29  # bytes of one value, or of one dictionary

_UNREADABLE = "among values too large to be read"

_Field = tuple[Any, str]
"""A value, and why it cannot be read, if it cannot."""


def names_in(file: File) -> list[str]:
    """The columns, and behind dots their fields, of a Parquet file. Raises: `CorpusError`."""
    with _table(file) as (_, table):
        return list(_names(table.schema_arrow))


def _names(fields: Any, before: str = "") -> Iterator[str]:
    """Of a schema or a struct; what is in lists and maps cannot be named."""
    import pyarrow

    for field in fields:
        yield f"{before}{field.name}"
        if pyarrow.types.is_struct(field.type):
            inner = [field.type.field(number) for number in range(field.type.num_fields)]
            yield from _names(inner, f"{before}{field.name}.")


def parquet_parts(file: File, part_bytes: int) -> list[Range | None]:
    """Groups of rows of about `part_bytes`; [None]: the whole."""
    with _table(file) as (_, table):
        cuts, size = [0], 0
        for group in range(table.num_row_groups):
            if size >= part_bytes:
                cuts, size = [*cuts, group], 0
            size += table.metadata.row_group(group).total_byte_size
        ends = [*cuts[1:], table.num_row_groups]
    return list(zip(cuts, ends, strict=True)) if len(cuts) > 1 else [None]


def rows_of_parquet(file: File, part: Range | None, columns: Sequence[str]) -> Iterator[Record]:
    """What rows of some groups, or of all, have in each of `columns`. Raises: `CorpusError`."""
    with _table(file) as (stream, table):
        refuse_columns(file, columns, list(_names(table.schema_arrow)))
        first, end = part or (0, table.num_row_groups)
        number = sum(table.metadata.row_group(group).num_rows for group in range(first))
        for group in range(first, end):
            for row in _rows_of_group(stream, table, group, columns):
                number += 1
                fields = {column: value for column, (value, _) in zip(columns, row, strict=True)}
                yield Record(number, fields, next((told for _, told in row if told), ""))


def _rows_of_group(
    stream: IO[bytes], table: Any, group: int, columns: Sequence[str]
) -> Iterator[Sequence[_Field]]:
    import pyarrow.parquet

    about = table.metadata.row_group(group)
    unreadable = [(None, _UNREADABLE)] * len(columns)
    if about.total_byte_size > max(_MOST_AT_ONCE, LONGEST_LINE * about.num_rows):
        yield from itertools.repeat(unreadable, about.num_rows)
        return
    leaves = {
        number: leaf
        for number, leaf in enumerate(_leaves(table))
        if any(leaf.path == name or leaf.path.startswith(f"{name}.") for name in columns)
    }
    # A row may have any number of strings; they stay entries of their dictionary.
    lists = [
        leaf.path for leaf in leaves.values() if _is_string(leaf) and leaf.max_repetition_level
    ]
    if lists:
        table = pyarrow.parquet.ParquetFile(stream, read_dictionary=lists, metadata=table.metadata)
    if next(table.iter_batches(1, row_groups=[group], columns=columns), None) is None:
        return
    # Only now: of damaged columns these figures end the process, and reading raises.
    strings = [about.column(number) for number, leaf in leaves.items() if _is_string(leaf)]
    at_once = min((_rows_at_once(stream, chunk) for chunk in strings), default=_ROWS_AT_ONCE)
    if not at_once:
        yield from itertools.repeat(unreadable, about.num_rows)
        return
    for batch in table.iter_batches(at_once, row_groups=[group], columns=columns):
        yield from zip(*(_values(batch, column) for column in columns), strict=True)


def _values(batch: Any, column: str) -> Iterator[_Field]:
    import pyarrow

    path = [column] if column in batch.schema.names else column.split(".")
    values = batch[path[0]]
    # Most batches of text are shorter than one value may be.
    if values.type == pyarrow.string() and values.nbytes <= LONGEST_LINE:
        with contextlib.suppress(UnicodeDecodeError):
            yield from zip(values.to_pylist(), itertools.repeat(""))
            return
    for scalar in values:
        for field in path[1:]:
            scalar = scalar[field] if scalar.is_valid else scalar
        if not scalar.is_valid:
            yield None, ""
        elif _size(scalar) > LONGEST_LINE:
            yield None, TOO_LONG
        else:
            try:
                yield scalar.as_py(), ""
            except UnicodeDecodeError:
                yield None, NOT_UTF8


def _size(scalar: Any) -> int:
    """Bytes of the text in a value that is not null."""
    import pyarrow
    import pyarrow.compute

    if isinstance(scalar, pyarrow.DictionaryScalar):
        scalar = scalar.value
    if hasattr(scalar, "as_buffer"):
        return int(scalar.as_buffer().size)
    values = getattr(scalar, "values", None)
    if not isinstance(values, pyarrow.DictionaryArray):
        return int(getattr(values, "nbytes", 0))
    lengths = pyarrow.compute.binary_length(values.dictionary).cast("int64")
    return int(pyarrow.compute.sum(lengths.take(values.indices)).as_py() or 0)


def _leaves(table: Any) -> list[Any]:
    """The columns as they are stored: fields of fields stand alone."""
    return [table.schema.column(number) for number in range(len(table.schema))]


def _is_string(leaf: Any) -> bool:
    return bool(leaf.physical_type == "BYTE_ARRAY")


def _rows_at_once(stream: IO[bytes], chunk: Any) -> int:
    """Rows of a column that may be in memory together; 0: not one of them may."""
    most = _FEW_ROWS if chunk.total_uncompressed_size > _BATCH_BYTES else _ROWS_AT_ONCE
    if "DELTA_BYTE_ARRAY" in chunk.encodings:  # a value may repeat all of the one before
        return 1
    if chunk.has_dictionary_page:
        largest = _page_size(stream, chunk.dictionary_page_offset)
        if largest > _MOST_AT_ONCE:
            return 0
        most = min(most, max(1, _BATCH_BYTES // max(largest, 1)))
    return most


def _page_size(stream: IO[bytes], place: int) -> int:
    """The size of a page, unpacked: the second field of its header, in Thrift's compact form."""
    stream.seek(max(place, 0))
    raw = iter(stream.read(32))
    numbers: list[int] = []
    for _ in range(2):
        if next(raw, 0) != 0x15:  # the next field, an int32
            return 0
        number = shift = 0
        for byte in raw:
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        numbers.append(number >> 1)
    return numbers[1]


@contextmanager
def _table(file: File) -> Iterator[tuple[IO[bytes], Any]]:
    """The bytes of a file, and what pyarrow makes of them; what it raises names the file."""
    import pyarrow
    import pyarrow.parquet

    with opened(file) as stream:
        try:
            yield stream, pyarrow.parquet.ParquetFile(stream)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            told = str(error).partition("\n")[0].rstrip(".")
            raise CorpusError(f"{file} is damaged, or no Parquet: {told}.") from error
