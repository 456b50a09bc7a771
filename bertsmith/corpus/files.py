"""Files and folders of text: plain text, and tables of texts, packed or not.

In plain text a line is a paragraph, an empty line ends a document, as does a file's end. In a table
a row is a document.
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from bertsmith.corpus.document import Document
from bertsmith.corpus.lines import read_lines
from bertsmith.corpus.opened import COMPRESSIONS, format_of
from bertsmith.corpus.rows import ROW_FORMATS, Columns, read_texts
from bertsmith.corpus.sentences import split_sentences
from bertsmith.errors import CorpusError

TEXT_FORMATS = (".txt", ".text", ".tokens")
"""What is plain text in a folder; a file named by itself may have any ending but those below."""

_OTHER_FORMATS = (
    *(".json", ".arrow", ".xml", ".html", ".htm", ".pdf", ".doc", ".docx", ".epub"),
    *(".zip", ".tar", ".tgz", ".7z", ".rar"),
)
"""Formats that are not read; reading one line by line would learn its brackets."""

_LINE_END = re.compile(r"\r\n|\r|\n")


def find_files(path: Path) -> tuple[list[Path], Counter[str]]:
    """The files of text that `path` stands for: itself, or those in the folder, sorted, not hidden.

    Of a folder with plain text in it, tables are left out: they tend to be about the texts.

    Returns:
        The files, and counts of the other files in the folder, by suffix.

    Raises:
        CorpusError: there is no such path, nothing to read in it, or another format.
    """
    if path.is_dir():
        files = [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
        found = [file for file in files if format_of(file) in TEXT_FORMATS]
        found = found or [file for file in files if format_of(file) in ROW_FORMATS]
        others = Counter(file.suffix or "no suffix" for file in files if file not in set(found))
        if not found:
            kinds = ", ".join((*TEXT_FORMATS, *ROW_FORMATS))
            raise CorpusError(f"The folder {path} must hold text files ({kinds}); it holds none.")
        return found, others
    if not path.is_file():
        raise CorpusError(
            f"{path} must be a regular file or a folder of text files; it is neither."
        )
    if format_of(path) in _OTHER_FORMATS:
        raise CorpusError(
            f"{path} must be plain text, JSON lines, CSV, TSV or Parquet; {format_of(path)} is not "
            "read. Convert it to one of these."
        )
    if format_of(path) == ".parquet" and path.suffix.lower() in COMPRESSIONS:
        raise CorpusError(f"{path} must be unpacked: Parquet is compressed inside.")
    return [path], Counter()


def expand(pattern: str) -> list[Path]:
    """The paths that a pattern with `*`, `?`, `[…]` or `**` stands for, sorted."""
    # Not `Path.glob`, which takes no absolute pattern.
    return [Path(found) for found in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207


def read_files(
    files: list[Path],
    skipped: Counter[str],
    language: str,
    columns: Columns,
    left_out: Counter[str],
) -> Iterator[Document]:
    """Documents of `files`, in the order given; `skipped` are files of other kinds, by suffix.

    Raises:
        CorpusError: a file is empty, binary, unreadable, or not UTF-8; the message has the place.
    """
    for suffix, count in skipped.items():
        left_out[f"files that are not text ({suffix})"] += count
    for file in files:
        if format_of(file) not in ROW_FORMATS:
            yield from _documents(read_lines(file), language)
            continue
        for text in read_texts(file, columns, left_out):
            document = list(_paragraphs(_LINE_END.split(text), language))
            if document:
                yield document
            else:
                left_out["rows of white space"] += 1


def _documents(lines: Iterable[str], language: str) -> Iterator[Document]:
    """Paragraphs up to the next empty line."""
    document: Document = []
    for line in lines:
        text = line.strip()
        if text and (sentences := split_sentences(text, language)):
            document.append(sentences)
        elif document:
            yield document
            document = []
    if document:
        yield document


def _paragraphs(lines: Iterable[str], language: str) -> Iterator[list[str]]:
    """All of one document."""
    for line in lines:
        if (text := line.strip()) and (sentences := split_sentences(text, language)):
            yield sentences
