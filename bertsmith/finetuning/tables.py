"""Tables of labelled texts, with GLUE's layouts known.

What is read is strings and numbers as they stand; `labels.py` says what they mean.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bertsmith.config import LabelledConfig, nearest
from bertsmith.corpus.bad import warn_of
from bertsmith.corpus.kinds import TABLE_FORMATS, look
from bertsmith.corpus.opened import format_of, in_encoding
from bertsmith.corpus.records import open_records
from bertsmith.corpus.tables import NOT_UNICODE, Record, is_unicode, listed
from bertsmith.errors import CorpusError, InputError

Label = str | int | float


class Columns(NamedTuple):
    """Names of columns; None: there is no such one."""

    text: str
    text_pair: str | None
    label: str | None
    negative: str | None = None


# As GLUE's files and common data sets name them, the more telling ones first.
_USUAL = (
    Columns("premise", "hypothesis", "label"),
    Columns("sentence1", "sentence2", "gold_label"),
    Columns("sentence1", "sentence2", "label"),
    Columns("sentence1", "sentence2", "score"),
    Columns("question1", "question2", "is_duplicate"),
    Columns("#1 String", "#2 String", "Quality"),
    Columns("question", "sentence", "label"),
    Columns("text1", "text2", "label"),
    Columns("text", "text_pair", "label"),
    Columns("sentence", None, "label"),
    Columns("text", None, "label"),
)
_USUAL_PAIRS = (
    Columns("question", "answer", None),
    Columns("query", "positive", None),
    Columns("anchor", "positive", None),
    Columns("query", "document", None),
    *(columns for columns in _USUAL if columns.text_pair),
)
"""Of texts that belong together."""

_USUAL_DOCUMENTS = ("text", "answer", "document", "passage", "contents", "body", "sentence")

_NO_LABEL = ("", "-")  # the second is SNLI's, where people disagreed
_COLA_HEADER = ["source", "label", "mark", "sentence"]  # its file has none
_STSB_HEADER = ["sentence1", "sentence2", "score"]  # of files of the benchmark that have none


@dataclass(frozen=True, kw_only=True)
class LabelledTexts:
    """The rows of a table, in its order."""

    path: Path
    texts: list[tuple[str, str | None]]
    """Each with its second text, or None."""
    labels: list[Label] | None
    """None: they were not read (a test set)."""
    lines: list[int]
    """The line on which each row ends in the file, from 1; of a file without lines, its place."""
    num_left_out: int
    """Rows without a text or a label."""
    negatives: list[str] | None = None
    """Of each row a text that is wrong for its first one; None: there is no such column."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def has_pairs(self) -> bool:
        """Whether rows have a second text."""
        return self.texts[0][1] is not None


def read_texts(path: Path, config: LabelledConfig) -> LabelledTexts:
    """Read a table of texts to search; its column is named, or has a usual name.

    Raises:
        CorpusError: as of `read_labelled`.
    """
    header, rows = _open(path, config)
    usual = [Columns(name, None, None) for name in _USUAL_DOCUMENTS]
    columns = _columns_of(path, header, config, needs_labels=False, usual_ones=usual)
    return _read(path, config, columns._replace(text_pair=None), rows)


def read_pairs(path: Path, config: LabelledConfig, negative_column: str | None) -> LabelledTexts:
    """Read a table of texts that belong together, maybe with scores that say how much.

    There are scores where `label_column` is named, or a column is named score.

    Args:
        path, config: as of `read_labelled`.
        negative_column: of texts that are wrong for the first text; None: by the usual name.

    Raises:
        CorpusError: as of `read_labelled`.
    """
    header, rows = _open(path, config)
    is_scored = config.label_column is not None or _STSB_HEADER[2] in header
    columns = _columns_of(path, header, config, needs_labels=is_scored, usual_ones=_USUAL_PAIRS)
    labels = {c.label for c in _USUAL if c.text_pair == columns.text_pair} & set(header)
    if not is_scored and labels and columns.text_pair is not None:
        raise CorpusError(
            f"{path} must have rows that all belong together, or scores that say how much; it has "
            f"labels ({listed(sorted(map(str, labels)))}). Name numbers with --label-column, or "
            "keep the rows that belong together, without that column."
        )
    if columns.text_pair is None:
        raise CorpusError(
            f"{path} must have two columns of texts that belong together; of {listed(header)} "
            f"there is {columns.text!r} alone. Name the other with --text-pair-column."
        )
    if negative_column is not None and negative_column not in header:
        raise CorpusError(
            f"{path} must have a column {negative_column!r}; it has {listed(header)}. "
            f"{nearest(negative_column, header)}"
        )
    if negative_column is not None and is_scored:
        raise CorpusError(
            f"{path} has scores, beside which `negative_column` changes nothing; leave one out."
        )
    negative = negative_column or ("negative" if "negative" in header else None)
    return _read(path, config, columns._replace(negative=None if is_scored else negative), rows)


def read_labelled(
    path: Path, config: LabelledConfig, *, needs_labels: bool = True
) -> LabelledTexts:
    """Read a table of texts with their labels.

    Rows that lack a text or a label are left out, counted and warned of, up to the share that
    `config` allows.

    Args:
        path: `.tsv` (fields as they stand, quotes too: GLUE's way), `.csv` (quoted where need be),
            `.jsonl` or `.ndjson`, `.json` (an array, or an object a line), all of these also packed
            (`.gz`, `.bz2`, `.xz`, `.zst`); `.parquet`.
        config: which columns, in which encoding, and how much may be bad.
        needs_labels: whether labels are read; if not, there need be none.

    Raises:
        CorpusError: the file cannot be read, is empty, lacks a column, has too many bad rows.
    """
    header, rows = _open(path, config)
    columns = _columns_of(path, header, config, needs_labels=needs_labels, usual_ones=_USUAL)
    return _read(path, config, columns, rows)


def _read(
    path: Path,
    config: LabelledConfig,
    columns: Columns,
    rows: Callable[[Sequence[str]], Iterable[Record]],
) -> LabelledTexts:
    texts: list[tuple[str, str | None]] = []
    labels: list[Label] = []
    negatives: list[str] = []
    lines: list[int] = []
    bad: Counter[str] = Counter()
    for row in rows([name for name in columns if name is not None]):
        if problem := _problem(row, columns):
            if not bad[problem]:
                warn_of(f"{path}, line {row.number}", problem)
            bad[problem] += 1
            continue
        pair = None if columns.text_pair is None else row.fields[columns.text_pair]
        texts.append((row.fields[columns.text], pair))
        lines.append(row.number)
        if columns.negative is not None:
            negatives.append(row.fields[columns.negative])
        if columns.label is not None:
            label = row.fields[columns.label]
            labels.append(label.strip() if isinstance(label, str) else label)
    num_bad = bad.total()
    if not texts and not num_bad:
        raise CorpusError(f"{path} must have rows under its header; it has none.")
    if not texts or num_bad > config.max_bad_rows * (num_bad + len(texts)):
        raise CorpusError(
            f"{path} must have a text and a label in all but {config.max_bad_rows:.1%} of its "
            f"rows; {num_bad} of {num_bad + len(texts)} have not ({'; '.join(list(bad)[:3])}). "
            "Mend it, name other columns or its encoding (as --encoding windows-1252), or raise "
            "--max-bad-rows."
        )
    return LabelledTexts(
        path=path,
        texts=texts,
        labels=None if columns.label is None else labels,
        lines=lines,
        num_left_out=num_bad,
        negatives=None if columns.negative is None else negatives,
    )


def refuse_other_kind(train: LabelledTexts, other: LabelledTexts) -> None:
    """Raise `InputError` if one table has pairs of texts and the other single ones."""
    if train.has_pairs != other.has_pairs:
        kinds = ("pairs of texts", "single texts")
        mine, theirs = kinds if train.has_pairs else kinds[::-1]
        raise InputError(
            f"{other.path} must hold {mine}, as {train.path} does; it holds {theirs}. "
            "Name the columns with --text-column and --text-pair-column."
        )


def _open(
    path: Path, config: LabelledConfig
) -> tuple[list[str], Callable[[Sequence[str]], Iterable[Record]]]:
    """The names of a table's columns, and what reads its rows with some of them."""
    if not path.is_file():
        raise CorpusError(f"{path} must be a regular file; {_what_is_at(path)}.")
    if (kind := format_of(path)) not in TABLE_FORMATS:
        raise CorpusError(
            f"{path} must be a table of labelled texts: .tsv, .csv, .jsonl, .json or .parquet (or "
            f"packed: .tsv.gz); it is {kind or 'without an ending'}."
        )
    table = open_records(
        look(in_encoding(path, config.encoding), ()),
        wanted=[name for name in (config.text_column, config.text_pair_column) if name],
        delimiter=config.delimiter,
        header_of=_known_header,
    )
    if (header := table.header()) is not None:
        return header, table.rows
    rows = list(table.rows(()))
    names = dict.fromkeys(name for row in rows for name in row.fields)
    if not names:
        raise CorpusError(f"{path} must hold rows that are JSON objects; it holds none.")
    return list(names), lambda columns: rows


def _what_is_at(path: Path) -> str:
    return "it is something else" if path.exists() else "there is none"


def _known_header(first_row: list[str]) -> list[str] | None:
    """The header of files that have none, as CoLA (source, 0 or 1, a mark, the text) and STS-B (two
    sentences, a score); None: of no such.
    """
    if len(first_row) == 4 and first_row[1] in ("0", "1") and first_row[2] in ("", "*"):
        return _COLA_HEADER
    if len(first_row) == 3 and re.fullmatch(r"\d(\.\d+)?", first_row[2]):
        return _STSB_HEADER
    return None


def _columns_of(
    path: Path,
    header: list[str],
    config: LabelledConfig,
    *,
    needs_labels: bool,
    usual_ones: Sequence[Columns],
) -> Columns:
    """The columns that are named, or those of the first usual layout that is there.

    Raises:
        CorpusError: one is missing.
    """
    asked = (config.text_column, config.text_pair_column, config.label_column)
    for name in asked:
        if name is not None and name not in header and (needs_labels or name != asked[2]):
            raise CorpusError(
                f"{path} must have a column {name!r}; it has {listed(header)}. "
                f"{nearest(name, header)}"
            )
    if config.text_column is not None:
        text, pair = config.text_column, config.text_pair_column
    else:
        usual = next(
            (c for c in usual_ones if c.text in header and (c.text_pair or c.text) in header), None
        )
        if usual is None:
            raise CorpusError(
                f"{path} must have a column of texts; of {listed(header)} none has a usual name. "
                f"Name it with --text-column (and --text-pair-column){_other_delimiter(header)}."
            )
        text, pair = usual.text, usual.text_pair
    if not needs_labels:
        return Columns(text, pair, None)
    label = config.label_column
    if label is None:
        names = dict.fromkeys(c.label for c in _USUAL)
        label = next((name for name in names if name in header), None)
    if label is None:
        raise CorpusError(
            f"{path} must have a column of labels; of {listed(header)} none has a usual name. "
            "Name it with --label-column."
        )
    return Columns(text, pair, label)


def _other_delimiter(header: list[str]) -> str:
    """What else to do about a header that may be several names."""
    found = [mark for mark in (";", "\t", "|", ",") if len(header) == 1 and mark in header[0]]
    return f", or what parts the columns with --delimiter {found[0]!r}" if found else ""


def _problem(row: Record, columns: Columns) -> str:
    """Why a row cannot be used; empty: it can."""
    if row.problem:
        return row.problem
    for name in filter(None, (columns.text, columns.text_pair, columns.negative)):
        text = row.fields.get(name)
        if not isinstance(text, str) or not text.strip():
            return f"no text in the column {name!r}"
        if "\0" in text:
            return f"a NUL byte in the column {name!r}"
        if not is_unicode(text):
            return f"{NOT_UNICODE} in the column {name!r}"
    if columns.label is not None:
        label = row.fields.get(columns.label)
        if not isinstance(label, str | int | float) or str(label).strip() in _NO_LABEL:
            return f"no label in the column {columns.label!r}"
        if not is_unicode(label):
            return f"{NOT_UNICODE} in the column {columns.label!r}"
    return ""
