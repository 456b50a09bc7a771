"""Lines of UTF-8 files, with the place of any byte that is not text; and where files are cut."""

from __future__ import annotations

from collections.abc import Iterator

from bertsmith.corpus.opened import File, encoding_of, is_packed, opened, size_of
from bertsmith.errors import CorpusError

LONGEST_LINE = 2**24
"""Bytes; a line is a paragraph, and what is longer is no text that a person wrote."""

PART_BYTES = 2**25
"""Of a file that is read in parts; a part is what one process works on."""

Range = tuple[int, int]
"""First byte of a part of a file, and the end."""


def read_lines(file: File, part: Range | None = None) -> Iterator[str]:
    """The lines of `file`, unpacked, ends included; a byte-order mark at its beginning is left out.

    Args:
        file: UTF-8.
        part: only the lines that begin in this part; None: all of it.

    Raises:
        CorpusError: the file is empty, binary, unreadable, not UTF-8, or one endless line.
    """
    place, end = part or (0, None)
    has_text = False
    with opened(file) as stream:
        if place:
            stream.seek(place)
        while (end is None or place < end) and (raw := stream.readline(LONGEST_LINE + 1)):
            line = _decode(raw, file, place)
            has_text = has_text or not line.isspace()
            yield line if place else line.removeprefix("\ufeff")
            place += len(raw)
    if not has_text and part is None:
        raise CorpusError(f"{file} must hold text; it is empty.")


def parts_of(file: File, *, at_empty_lines: bool) -> list[Range | None]:
    """Parts of a file of lines that can be read apart from one another; [None]: the whole.

    They depend on the file alone, not on who reads it.

    Args:
        file: plain or packed; what is packed has one part.
        at_empty_lines: cut behind an empty line where there is one within reach, so that no
            document is cut; else behind any line.
    """
    size = 0 if is_packed(file) else size_of(file)
    if size < 2 * PART_BYTES:
        return [None]
    cuts = [0]
    with opened(file) as stream:
        if not stream.seekable():  # its text is in another encoding
            return [None]
        for place in range(PART_BYTES, size - PART_BYTES // 2, PART_BYTES):
            stream.seek(place)
            stream.readline(LONGEST_LINE)
            cut = stream.tell()
            while at_empty_lines and stream.tell() < place + PART_BYTES // 4:
                line = stream.readline(LONGEST_LINE)
                if not line or line.isspace():
                    cut = stream.tell()
                    break
            if cuts[-1] < cut < size:
                cuts.append(cut)
    return list(zip(cuts, [*cuts[1:], size], strict=True))


def line_number(file: File, place: int) -> int:
    """The number of the line that begins at byte `place`, from 1."""
    number = 1
    with opened(file) as stream:
        while place > 0 and (block := stream.read(min(place, 2**20))):
            number += block.count(b"\n")
            place -= len(block)
    return number


def _decode(raw: bytes, file: File, place: int) -> str:
    if len(raw) > LONGEST_LINE:
        raise CorpusError(
            f"{file} must have a paragraph a line, each of at most {LONGEST_LINE} bytes; the line "
            f"at byte {place} is longer. Break it into paragraphs."
        )
    if (nul := raw.find(b"\0")) >= 0:
        raise CorpusError(
            f"{file} must be text; it is binary (a NUL byte at byte {place + nul}). "
            "Name text files; or save it as UTF-8; or say what it is, as with --encoding utf-16."
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if encoding := encoding_of(file):
            raise CorpusError(
                f"{file} must be {encoding}; there is something else behind byte "
                f"{place + error.start}, counted in UTF-8. Name its encoding with --encoding."
            ) from error
        raise CorpusError(
            f"{file} must be UTF-8; byte {place + error.start} (0x{raw[error.start]:02x}) is not. "
            "Save it as UTF-8 or, where a corpus is prepared, say what it is, as with "
            "--encoding windows-1252 (or gbk, shift_jis, …)."
        ) from error
