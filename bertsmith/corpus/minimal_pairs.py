"""Minimal pairs: two sentences that differ in little, of which one alone is grammatical."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bertsmith.config import PairColumns
from bertsmith.corpus.kinds import TABLE_FORMATS, look
from bertsmith.corpus.opened import format_of
from bertsmith.corpus.records import open_records
from bertsmith.corpus.tables import Record, is_unicode
from bertsmith.errors import CorpusError


class MinimalPair(NamedTuple):
    """A pair, and where it stands."""

    good: str
    bad: str
    paradigm: str
    phenomenon: str
    """Empty if the row does not say."""
    file: str
    line: int


def read_minimal_pairs(path: Path, columns: PairColumns) -> list[MinimalPair]:
    """The pairs of a table, or of all tables in a folder, by their names.

    Args:
        path: .jsonl, .json, .csv, .tsv or .parquet, packed or not; or a folder of these.
        columns: by which names.

    Raises:
        CorpusError: there is no such table, or a row lacks one of the two sentences.
    """
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.is_file() and format_of(f) in TABLE_FORMATS)
    elif not path.is_file():
        raise CorpusError(f"There is no file or folder of minimal pairs {path}.")
    if not files or format_of(files[0]) not in TABLE_FORMATS:
        raise CorpusError(
            f"{path} must be a table of minimal pairs, or a folder of such "
            f"({', '.join(TABLE_FORMATS)}); it is none."
        )
    rows = [(file, row) for file in files for row in _rows(file, columns)]
    if not rows:
        raise CorpusError(f"{path} must have rows; it has none.")
    for what in ("paradigm", "phenomenon"):
        name = getattr(columns, what)
        is_named = name != getattr(PairColumns, what)
        if is_named and not any(name in row.fields for _, row in rows):
            raise CorpusError(
                f"{path} must have the column {name!r}; no row has it. "
                f"Name another with --{what}-column."
            )
    pairs = [_pair(file, row, columns) for file, row in rows]
    phenomena = dict[str, str]()
    for pair in pairs:
        if (known := phenomena.setdefault(pair.paradigm, pair.phenomenon)) != pair.phenomenon:
            raise CorpusError(
                f"{path}: the pairs of a paradigm must be of one phenomenon; those of "
                f"{pair.paradigm!r} are of {known!r} and {pair.phenomenon!r}. Name the column of "
                "what pairs are grouped by with --paradigm-column."
            )
    return pairs


def _rows(file: Path, columns: PairColumns) -> list[Record]:
    wanted = [columns.good, columns.bad]
    table = open_records(look(file, ()), wanted=wanted)
    header = table.header() or ()
    every = (*wanted, columns.paradigm, columns.phenomenon)
    return list(table.rows([name for name in every if name in header]))


def _pair(file: Path, row: Record, columns: PairColumns) -> MinimalPair:
    problem = row.problem
    for flag in ("good", "bad"):
        name = getattr(columns, flag)
        text = row.fields.get(name)
        if not problem and not (isinstance(text, str) and text.strip() and is_unicode(text)):
            problem = f"without a text in {name!r} (--{flag}-column names another)"
    if problem:
        raise CorpusError(
            f"{file}, line {row.number}: each row must have two sentences; this one is {problem}."
        )
    return MinimalPair(
        good=row.fields[columns.good].strip(),
        bad=row.fields[columns.bad].strip(),
        paradigm=_name(row.fields.get(columns.paradigm)) or file.name.split(".")[0],
        phenomenon=_name(row.fields.get(columns.phenomenon)),
        file=file.name,
        line=row.number,
    )


def _name(value: object) -> str:
    """As a group is called; empty: the row does not say."""
    is_name = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).strip() if is_name and is_unicode(value) else ""
