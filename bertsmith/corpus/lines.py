"""Lines of UTF-8 files, with the place of any byte that is not text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bertsmith.corpus.opened import opened
from bertsmith.errors import CorpusError

LONGEST_LINE = 2**24
"""Bytes; a line is a paragraph, and what is longer is no text that a person wrote."""


def read_lines(file: Path) -> Iterator[str]:
    """The lines of `file`, unpacked, ends included; a byte-order mark at its beginning is left out.

    Raises:
        CorpusError: the file is empty, binary, unreadable, not UTF-8, or one endless line.
    """
    place = 0
    has_text = False
    with opened(file) as stream:
        while raw := stream.readline(LONGEST_LINE + 1):
            line = _decode(raw, file, place)
            has_text = has_text or not line.isspace()
            yield line if place else line.removeprefix("\ufeff")
            place += len(raw)
    if not has_text:
        raise CorpusError(f"{file} must hold text; it is empty.")


def _decode(raw: bytes, file: Path, place: int) -> str:
    if len(raw) > LONGEST_LINE:
        raise CorpusError(
            f"{file} must have a paragraph a line, each of at most {LONGEST_LINE} bytes; the line "
            f"at byte {place} is longer. Break it into paragraphs."
        )
    if (nul := raw.find(b"\0")) >= 0:
        raise CorpusError(
            f"{file} must be text; it is binary (a NUL byte at byte {place + nul}). "
            "Name text files, or save it as UTF-8."
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{file} must be UTF-8; byte {place + error.start} (0x{raw[error.start]:02x}) is not. "
            "Save it as UTF-8."
        ) from error
