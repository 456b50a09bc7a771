"""Plain text files: a line is a paragraph, an empty line ends a document, as does a file's end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bertsmith.corpus.document import Document
from bertsmith.corpus.lines import read_lines
from bertsmith.corpus.sentences import split_sentences
from bertsmith.errors import CorpusError

TEXT_SUFFIXES = (".txt", ".text", ".tokens")
"""What is read of a folder; a file named by itself may have any suffix but those below."""

STRUCTURED_SUFFIXES = (
    *(".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".xml", ".html", ".pdf"),
    *(".zip", ".gz", ".zst", ".bz2", ".xz", ".tar"),
)
"""Formats that are not plain text; reading one line by line would learn its brackets."""


def find_text_files(path: Path) -> tuple[list[Path], Counter[str]]:
    """The text files that `path` stands for: itself, or all in the folder, sorted, not hidden.

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
        found = [file for file in files if file.suffix.lower() in TEXT_SUFFIXES]
        others = Counter(file.suffix or "no suffix" for file in files if file not in set(found))
        if not found:
            kinds = ", ".join(TEXT_SUFFIXES)
            raise CorpusError(f"The folder {path} must hold text files ({kinds}); it holds none.")
        return found, others
    if not path.is_file():
        raise CorpusError(
            f"{path} must be a regular file or a folder of text files; it is neither."
        )
    if path.suffix.lower() in STRUCTURED_SUFFIXES:
        raise CorpusError(
            f"{path} must be plain text, a paragraph a line; {path.suffix} is not read yet. "
            "Convert it to .txt."
        )
    return [path], Counter()


def read_text_files(
    files: list[Path], skipped: Counter[str], language: str, left_out: Counter[str]
) -> Iterator[Document]:
    """Documents of `files`, in the order given; `skipped` are files of other kinds, by suffix.

    Raises:
        CorpusError: a file is empty, binary, unreadable, or not UTF-8; the message has the place.
    """
    for suffix, count in skipped.items():
        left_out[f"files that are not text ({suffix})"] += count
    for file in files:
        document: Document = []
        for line in read_lines(file):
            text = line.strip()
            if text and (sentences := split_sentences(text, language)):
                document.append(sentences)
            elif document:
                yield document
                document = []
        if document:
            yield document
