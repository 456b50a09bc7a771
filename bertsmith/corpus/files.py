"""Files and folders of text, here or at an address: plain text and tables, packed or not.

In plain text a line is a paragraph and an empty line ends a document, as does a file's end; in a
table a row is a document. `Rules` may say otherwise.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
from upath import UPath

from bertsmith.corpus.assemble import CUT_DOCUMENTS, Rules, assemble
from bertsmith.corpus.document import Document, NamedDocument, Part
from bertsmith.corpus.lines import PART_BYTES, Range, parts_of, read_lines
from bertsmith.corpus.opened import (
    UTF8,
    File,
    encoding_of,
    files_in,
    format_of,
    in_encoding,
    is_archive,
    is_local,
    size_of,
    told_errors,
    version_at_address,
)
from bertsmith.corpus.packings import COMPRESSIONS
from bertsmith.corpus.rows import ROW_FORMATS, Columns, parts_of_table, read_texts
from bertsmith.errors import CorpusError

TEXT_FORMATS = (".txt", ".text", ".tokens")
"""What is plain text in a folder; a file named by itself may have any ending but those below."""

_OTHER_FORMATS = (
    *(".json", ".arrow", ".xml", ".html", ".htm", ".pdf", ".doc", ".docx", ".epub"),
    ".zip",  # packed once more
)
"""Formats that are not read; reading one line by line would learn its brackets."""

_LINE_END = re.compile(r"\r\n|\r|\n")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

Piece = tuple[File, Range | None]
"""A file, or a part of it."""


def is_address(name: str) -> bool:
    """Whether `name` is an address such as "s3://bucket/folder"."""
    return _ADDRESS.match(name) is not None


def find_files(path: Path | UPath, encoding: str = UTF8) -> tuple[list[File], Counter[str]]:
    """The files of text that `path` stands for: itself, or those in the folder, sorted, not hidden.

    An archive is read as a folder is, in its own order. Of a folder with plain text in it, tables
    are left out: they tend to be about the texts.

    Args:
        path: a file, a folder or an archive.
        encoding: of text that has no byte-order mark.

    Returns:
        The files, and counts of the other files in the folder, by suffix.

    Raises:
        CorpusError: there is no such path, nothing to read in it, or another format.
    """
    with told_errors(path):
        is_folder, is_file = path.is_dir(), path.is_file()
        files: list[File] = [*_visible_files(path)] if is_folder else []
    others: Counter[str] = Counter()
    if is_file and is_archive(path):
        is_folder, (files, others) = True, files_in(path)
    files = [in_encoding(file, encoding) for file in files]
    if is_folder:
        found = [file for file in files if format_of(file) in TEXT_FORMATS]
        found = found or [file for file in files if format_of(file) in ROW_FORMATS]
        known = set(found)
        others += Counter(file.suffix or "no suffix" for file in files if file not in known)
        if not found:
            kinds = ", ".join((*TEXT_FORMATS, *ROW_FORMATS))
            raise CorpusError(f"{path} must hold text files ({kinds}); it holds none.")
        return found, others
    if not is_file:
        raise CorpusError(
            f"{path} must be a regular file or a folder of text files; it is neither."
        )
    if format_of(path) in (".7z", ".rar"):
        raise CorpusError(
            f"{path} must be unpacked: {format_of(path)} is not read (zip and tar are)."
        )
    if format_of(path) in _OTHER_FORMATS:
        raise CorpusError(
            f"{path} must be plain text, JSON lines, CSV, TSV or Parquet; {format_of(path)} is not "
            "read. Convert it to one of these."
        )
    if format_of(path) == ".parquet" and path.suffix.lower() in COMPRESSIONS:
        raise CorpusError(f"{path} must be unpacked: Parquet is compressed inside.")
    return [in_encoding(path, encoding)], Counter()


def _visible_files(folder: Path | UPath) -> list[Path | UPath]:
    every: list[Any] = sorted(folder.rglob("*"))
    return [
        file
        for file in every
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def expand(name: str) -> list[Path | UPath]:
    """The paths that a path, a pattern with `*`, `?`, `[…]` or `**`, or an address stands for.

    Raises:
        CorpusError: an address that nothing installed can read, or that does not answer.
    """
    if not is_address(name):
        if Path(name).exists():
            return [Path(name)]
        # Not `Path.glob`, which takes no absolute pattern.
        return [Path(found) for found in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207
    try:
        system, path = fsspec.core.url_to_fs(name)
        found = sorted(system.glob(path)) if glob.has_magic(path) else [path]
        return [UPath(system.unstrip_protocol(one)) for one in found if system.exists(one)]
    except ImportError as error:
        raise CorpusError(
            f"{name} cannot be read: {str(error).rstrip('.')}. Addresses need the library of their "
            "kind: pip install s3fs for s3://, gcsfs for gs://, adlfs for abfs://, aiohttp for "
            "https://."
        ) from error
    except ValueError as error:
        raise CorpusError(f"{name} cannot be read: {str(error).rstrip('.')}.") from error
    except Exception as error:  # of whichever library talks to the other side
        raise CorpusError(f"Cannot read {name}: {type(error).__name__}: {error}.") from error


def parts_of_files(
    files: list[File], skipped: Counter[str], rules: Rules, columns: Columns
) -> list[Part]:
    """Parts of `files` in the order given, each of about `PART_BYTES`.

    Args:
        files: of `find_files`.
        skipped: files of other kinds, by suffix; the first part counts them.
        rules: what documents are.
        columns: of tables.

    Raises:
        CorpusError: a file cannot be read.
    """
    groups: list[list[Piece]] = [[]]
    sizes = [0]
    for file in files:
        ranges = _ranges(file, rules)
        for part in ranges:
            size = size_of(file) // len(ranges)
            if groups[-1] and sizes[-1] + size > PART_BYTES:
                groups.append([])
                sizes.append(0)
            groups[-1].append((file, part))
            sizes[-1] += size
    return [
        Part(
            partial(_read, tuple(group), rules, columns, Counter() if number else skipped),
            size=size,
        )
        for number, (group, size) in enumerate(zip(groups, sizes, strict=True))
    ]


def documents_of_rows(
    rows: Iterator[tuple[str, str]], rules: Rules, left_out: Counter[str]
) -> Iterator[Document]:
    """Documents of a table's texts: a row each, with its name if it has one, or as `rules` say."""
    if rules.documents != "auto":
        lines = itertools.chain.from_iterable(_LINE_END.split(text) for text, _ in rows)
        yield from assemble(lines, rules, rules.documents, left_out)
        return
    for text, name in rows:
        is_empty = True
        for document in assemble(_LINE_END.split(text), rules, "file", left_out):
            is_empty = False
            yield NamedDocument(document, name) if name else document
        if is_empty:
            left_out["rows of white space"] += 1


def digest_of(file: File) -> str:
    """A digest of a file's bytes; of one at an address, of what its host says of its version."""
    if not is_local(file):
        return f"{file} {version_at_address(file)}"
    with told_errors(file), file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256")  # type: ignore[arg-type]
        return f"{encoding_of(file)}{format_of(file)} {found.hexdigest()}"


def _ranges(file: File, rules: Rules) -> list[Range | None]:
    """Parts of one file that end where documents end."""
    if format_of(file) in ROW_FORMATS:
        return parts_of_table(file) if rules.documents == "auto" else [None]
    if rules.documents == "file":
        return [None]
    return parts_of(file, at_empty_lines=rules.documents != "line")


def _read(
    pieces: tuple[Piece, ...],
    rules: Rules,
    columns: Columns,
    skipped: Counter[str],
    left_out: Counter[str],
) -> Iterator[Document]:
    for suffix, count in skipped.items():
        left_out[f"files that are not text ({suffix})"] += count
    for file, part in pieces:
        if format_of(file) not in ROW_FORMATS:
            yield from _text(file, part, rules, left_out)
            continue
        yield from documents_of_rows(read_texts(file, part, columns, left_out), rules, left_out)


def _text(
    file: File, part: Range | None, rules: Rules, left_out: Counter[str]
) -> Iterator[Document]:
    rule = "empty-line" if rules.documents == "auto" else rules.documents
    last = "\n"

    def lines() -> Iterator[str]:
        nonlocal last
        for line in read_lines(file, part):
            last = line
            yield line

    yield from assemble(lines(), rules, rule, left_out)
    if part and rule == "empty-line" and not last.isspace():
        following = next(read_lines(file, (part[1], part[1] + 1)), "")
        # No empty line was within reach of the part's end.
        left_out[CUT_DOCUMENTS] += bool(following and not following.isspace())
