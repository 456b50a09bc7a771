"""What a file is, by its name and a look at its beginning: plain text, a table, or neither.

The look is a pure function of the first bytes. JSON lines are recognised under any name, since
read as prose their brackets and keys would be learned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bertsmith.corpus.opened import Encoded, File, format_of, is_packed, opened, opened_as_it_is
from bertsmith.corpus.tables import csv_header, has_column, no_column, one_object
from bertsmith.errors import CorpusError, printable

TEXT_FORMATS = (".txt", ".text", ".tokens", ".md", ".markdown")
"""What is plain text in a folder, beside files without an ending or with a number for one."""

TABLE_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""What is read by rows. A file that is no Parquet by name may turn out to be JSON by content."""

OTHER_FORMATS = (
    *(".arrow", ".xml", ".html", ".htm", ".pdf", ".doc", ".docx", ".epub"),
    *(".zip", ".tar", ".7z", ".rar"),  # inside a folder or an archive
)
"""Formats that are not read; reading one line by line would learn its brackets."""

HEAD_BYTES = 2**16
_EMPTY = "empty files"
_MOST_LINES = 100  # that are looked at
_MOST_NUL_LINES = 0.1  # of the lines of a text; of a binary file more have a NUL byte

_BEGINS_OBJECT = re.compile(rb'\s*\{\s*"(?:[^"\\\n]|\\.)*"\s*:')
_BEGINS_JSON = re.compile(rb'\s*(?:\[\s*)?\{\s*"(?:[^"\\\n]|\\.)*"\s*:')


@dataclass(frozen=True)
class Source:
    """A file, and how it is read. It can be sent to another process."""

    file: File
    format: str
    """The ending of what is in it, of `TABLE_FORMATS`; any other one is plain text."""
    ends_lines_with_cr: bool = False
    """Whether its lines end as those of old Macs do."""
    seems_utf8: bool = False
    """Whether it is said to be in another encoding, and is UTF-8 by its first bytes."""

    @property
    def is_table(self) -> bool:
        """Whether it is read by rows."""
        return self.format in TABLE_FORMATS

    @property
    def read_as(self) -> str:
        """What decides how its bytes are read, beside the settings: a part of a store's key."""
        how = {".tsv": " as it stands"}.get(self.format, "")
        return f"{self.format}{how}{' with CR' if self.ends_lines_with_cr else ''}"


class UnfitError(CorpusError):
    """A file is not what can be read.

    Attributes:
        kind: what such files are called where they are counted.
        is_damage: whether its name promises that it can be read.
    """

    def __init__(self, kind: str, message: str, *, is_damage: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.is_damage = is_damage

    @property
    def is_empty(self) -> bool:
        """Whether nothing is lost with it."""
        return self.kind == _EMPTY


def look(file: File, wanted: Sequence[str]) -> Source:
    """How `file` is read.

    Args:
        file: any.
        wanted: columns that it must have if it is a table.

    Raises:
        UnfitError: as `_look`.
    """
    return replace(_look(file, wanted), seems_utf8=_seems_utf8(file))


def _seems_utf8(file: File) -> bool:
    if not isinstance(file, Encoded):
        return False
    text = _head(file).decode("utf-8", "ignore")
    try:
        raw = text.encode(file.encoding)
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(raw) - 4  # the look ends within a letter
    except UnicodeEncodeError:  # a byte-order mark says that it is in another one
        return False
    return not raw.isascii()


def _look(file: File, wanted: Sequence[str]) -> Source:
    """How `file` is read.

    Raises:
        UnfitError: it is empty, binary, damaged, of a format that is not read, or a table without
            the columns that are asked for.
    """
    ending = format_of(file)
    if ending in (".7z", ".rar"):
        raise UnfitError(
            f"files that are not text ({ending})",
            f"{file} must be unpacked: {ending} is not read (zip and tar are).",
        )
    if ending in OTHER_FORMATS:
        raise UnfitError(
            f"files that are not text ({ending})",
            f"{file} must be plain text, JSON, CSV, TSV or Parquet; {ending} is not read. "
            "Convert it to one of these.",
        )
    if ending == ".parquet" and is_packed(file):
        raise UnfitError(
            "packed Parquet files", f"{file} must be unpacked: Parquet is read from its end."
        )
    head = _head(file)
    if not head.strip():
        raise UnfitError(_EMPTY, f"{file} must hold text; it is empty.")
    if ending == ".parquet":
        return _look_at_parquet(file, wanted)
    if (num_nul := sum(b"\0" in line for line in head.splitlines())) and (
        num_nul > _MOST_NUL_LINES * len(head.splitlines())
    ):
        raise UnfitError(
            f"binary files ({told_ending(file)})",
            f"{file} must be text; it is binary (a NUL byte at byte {head.find(0)}). "
            "Name text files; or save it as UTF-8; or say what it is, as with --encoding utf-16.",
            is_damage=ending in TEXT_FORMATS or ending in TABLE_FORMATS,
        )
    if ending in (".csv", ".tsv"):
        names = csv_header(head, ending, wanted)
        _refuse_missing(file, wanted, dict.fromkeys(names))
        return Source(file, ending, _has_cr_lines(head))
    if ending in (".jsonl", ".ndjson") or _is_json_lines(head, is_several=ending == ".json"):
        objects = [row for row in _objects(head) if row]
        _refuse_missing(file, wanted, *objects)
        return Source(file, ending if ending == ".ndjson" else ".jsonl", _has_cr_lines(head))
    if ending == ".json" or _BEGINS_JSON.match(head.removeprefix(b"\xef\xbb\xbf")):
        return _look_at_json(file, head, wanted)
    return Source(file, ending, _has_cr_lines(head))


def _head(file: File) -> bytes:
    """The first bytes of `file`, unpacked."""
    try:
        if is_packed(file):  # an empty file is none of the packed ones that unpack to nothing
            with opened_as_it_is(file) as packed:
                if not packed.read(1):
                    return b""
        with opened(file) as stream:
            return stream.read(HEAD_BYTES)
    except CorpusError as error:
        raise UnfitError("files that cannot be read", str(error), is_damage=True) from error


def _look_at_parquet(file: File, wanted: Sequence[str]) -> Source:
    from bertsmith.corpus.parquet import names_in  # pyarrow takes a while to load

    try:
        names = names_in(file)
    except CorpusError as error:
        raise UnfitError("files that cannot be read", str(error), is_damage=True) from error
    for column in wanted:
        if not any(name == column or name.startswith(f"{column}.") for name in names):
            raise UnfitError(f"tables without a column {column!r}", no_column(file, column, names))
    return Source(file, ".parquet")


def _look_at_json(file: File, head: bytes, wanted: Sequence[str]) -> Source:
    """One array of objects, or objects that are spread over several lines."""
    text = head.decode(errors="replace").removeprefix("\ufeff").lstrip()
    if not text.startswith(("[", "{")):
        raise UnfitError(
            "files that are not JSON",
            f"{file} must hold JSON lines, or one array of objects; it holds neither.",
            is_damage=True,
        )
    is_array = text.startswith("[")
    if is_array and text[1:].strip() == "]":
        raise UnfitError(_EMPTY, f"{file} must hold text; it is empty.")
    try:
        row = json.JSONDecoder().raw_decode(text.removeprefix("[").lstrip())[0]
    except (ValueError, RecursionError):
        row = None  # longer than the look
    if isinstance(row, dict):
        for column in wanted:
            if not has_column(row, column):
                told = no_column(file, column, [*row]) if is_array else one_object(file, row)
                raise UnfitError(f"tables without a column {column!r}", told)
    return Source(file, ".json")


def _objects(head: bytes) -> list[dict[str, Any] | None]:
    """What the first lines that are not empty hold: objects, or None; empty of one that is cut."""
    lines = head.replace(b"\r", b"\n").split(b"\n")
    cut = lines.pop() if len(head) == HEAD_BYTES else b""
    found: list[dict[str, Any] | None] = []
    for line in [line for line in lines if line.strip()][:_MOST_LINES]:
        row = None
        if line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            try:
                row = json.loads(line.decode("utf-8-sig", errors="replace"))
            except (ValueError, RecursionError):
                row = None
        found.append(row if isinstance(row, dict) else None)
    if not found and cut:
        found.append({} if _BEGINS_OBJECT.match(cut) else None)
    return found


def _is_json_lines(head: bytes, *, is_several: bool) -> bool:
    """Whether most of the first lines are objects, so that a few may be damaged.

    Args:
        head: of a file.
        is_several: whether one alone is none.
    """
    rows = _objects(head) if b"{" in head else []
    return 2 * sum(row is not None for row in rows) > len(rows) > is_several


def _refuse_missing(file: File, wanted: Sequence[str], *rows: dict[str, Any]) -> None:
    for column in wanted:
        if rows and not any(has_column(row, column) for row in rows):
            names = [*dict.fromkeys(name for row in rows for name in row)]
            raise UnfitError(f"tables without a column {column!r}", no_column(file, column, names))


def _has_cr_lines(head: bytes) -> bool:
    return b"\n" not in head and b"\r" in head[:-1]


def told_ending(file: File) -> str:
    """The end of a file's name, as it is shown where files are counted."""
    return printable(file.suffix.lower()) or "no ending"
