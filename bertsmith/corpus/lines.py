"""Lines of UTF-8 files, with the place of any byte that is not text; and where files are cut."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, Any

from bertsmith.corpus.opened import File, encoding_of, is_packed, opened, size_of
from bertsmith.corpus.tables import NOT_UTF8, TOO_LONG
from bertsmith.errors import CorpusError

LONGEST_LINE = 2**24
"""Bytes; a line is a paragraph, and what is longer is no text that a person wrote."""

PART_BYTES = 2**25
"""Of a file that is read in parts; a part is what one process works on."""

Range = tuple[int, int]
"""First byte of a part of a file, and the end."""


class BadLineError(ValueError):
    """A line is no text.

    Attributes:
        reason: in a few words, the same for all of a kind.
        place: the byte of the file where it shows.
        must: what must hold and what to do, to be said of the file.
    """

    def __init__(self, reason: str, place: int, must: str) -> None:
        super().__init__(must)
        self.reason = reason
        self.place = place
        self.must = must


def read_lines(file: File) -> Iterator[str]:
    """The lines of `file`, unpacked, ends included; a byte-order mark at its beginning is left out.

    Raises:
        CorpusError: the file is empty, binary, unreadable, not UTF-8, or one endless line.
    """
    has_text = False
    for place, raw in raw_lines(file):
        try:
            line = decode(raw, place, encoding_of(file))
        except BadLineError as bad:
            raise CorpusError(f"{file} {bad.must}") from bad
        has_text = has_text or not line.isspace()
        yield line
    if not has_text:
        raise CorpusError(f"{file} must hold text; it is empty.")


def raw_lines(
    file: File, part: Range | None = None, *, cr: bool = False
) -> Iterator[tuple[int, bytes]]:
    """The lines of `file` as bytes, ends included, each with its place.

    Of a line that is longer than `LONGEST_LINE` the beginning is given, a byte more than that.

    Args:
        file: plain or packed.
        part: only the lines that begin in this part; None: all of it.
        cr: lines end in a carriage return alone.
    """
    place, end = part or (0, None)
    with opened(file) as stream:
        if place:
            stream.seek(place)
        lines: IO[bytes] = io.BufferedReader(_OtherLineEnds(stream)) if cr else stream
        while (end is None or place < end) and (raw := lines.readline(LONGEST_LINE + 1)):
            yield place, raw
            place += len(raw)
            while len(raw) > LONGEST_LINE and not raw.endswith(b"\n"):
                if not (raw := lines.readline(LONGEST_LINE + 1)):
                    return
                place += len(raw)


class _OtherLineEnds(io.RawIOBase):
    """Bytes in which carriage returns are line feeds."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._stream.read(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(found)] = found
        return len(found)


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
            _whole_line(stream)
            cut = stream.tell()
            while at_empty_lines and stream.tell() < place + PART_BYTES // 4:
                line = _whole_line(stream)
                if not line or line.isspace():
                    cut = stream.tell()
                    break
            if cuts[-1] < cut < size:
                cuts.append(cut)
    return list(zip(cuts, [*cuts[1:], size], strict=True))


def _whole_line(stream: IO[bytes]) -> bytes:
    """Read to the end of a line; gives it, or the end of it if it is longer than `LONGEST_LINE`."""
    line = stream.readline(LONGEST_LINE)
    while not line.endswith(b"\n") and (rest := stream.readline(LONGEST_LINE)):
        line = rest
    return line


def line_number(file: File, place: int) -> int:
    """The number of the line that begins at byte `place`, from 1."""
    number = 1
    with opened(file) as stream:
        while place > 0 and (block := stream.read(min(place, 2**20))):
            number += block.count(b"\n")
            place -= len(block)
    return number


def decode(raw: bytes, place: int, encoding: str = "") -> str:
    """A line as text; the first of a file without its byte-order mark.

    Args:
        raw: UTF-8.
        place: its first byte.
        encoding: what the file is said to be in (`encoding_of`), for the message.

    Raises:
        BadLineError: it is too long, has a NUL byte, or is not UTF-8.
    """
    if len(raw) > LONGEST_LINE:
        raise BadLineError(
            TOO_LONG,
            place,
            f"must have a paragraph a line, each of at most {LONGEST_LINE} bytes; the line "
            f"at byte {place} is longer. Break it into paragraphs.",
        )
    if (nul := raw.find(b"\0")) >= 0:
        raise BadLineError(
            "a NUL byte",
            place + nul,
            f"must be text; it is binary (a NUL byte at byte {place + nul}). "
            "Name text files; or save it as UTF-8; or say what it is, as with --encoding utf-16.",
        )
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if encoding:
            must = (
                f"must be {encoding}; there is something else behind byte {place + error.start}, "
                "counted in UTF-8. Name its encoding with --encoding."
            )
        else:
            must = (
                f"must be UTF-8; byte {place + error.start} (0x{raw[error.start]:02x}) is not. "
                "Save it as UTF-8 or, where a corpus is prepared, say what it is, as with "
                "--encoding windows-1252 (or gbk, shift_jis, …)."
            )
        reason = f"not {encoding}" if encoding else NOT_UTF8
        raise BadLineError(reason, place + error.start, must) from error
    return line if place else line.removeprefix("\ufeff")
