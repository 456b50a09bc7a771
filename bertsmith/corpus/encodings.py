"""Text in other encodings than UTF-8, as UTF-8."""

from __future__ import annotations

import codecs
import io
from typing import IO, Any

_BLOCK_BYTES = 2**16
_MARKS = (  # the longest first: one begins as another does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NO_TEXT = "bertsmith.no-text"


def as_utf8(stream: IO[bytes], encoding: str) -> IO[bytes]:
    """The text in `stream` as UTF-8: `stream` itself if it is, or one that cannot be sought in.

    A byte-order mark at its beginning says which encoding it is, whatever `encoding` says. Bytes
    that are no text in it become a byte that is none in UTF-8.

    Args:
        stream: buffered.
        encoding: a name that Python knows; of text without a byte-order mark.
    """
    start = stream.peek(4)[:4]  # type: ignore[attr-defined]
    found = next((name for mark, name in _MARKS if start.startswith(mark)), encoding)
    if found == "utf-8":
        return stream
    return io.BufferedReader(_Recoded(stream, found), 4 * _BLOCK_BYTES)


class _Recoded(io.RawIOBase):
    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)(_NO_TEXT)
        self._waiting = b""
        self._is_at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._waiting and not self._is_at_end:
            block = self._stream.read(_BLOCK_BYTES)
            self._is_at_end = not block
            text = self._decoder.decode(block, final=not block)
            self._waiting = text.encode("utf-8", _NO_TEXT)
        count = min(len(buffer), len(self._waiting))
        buffer[:count] = self._waiting[:count]
        self._waiting = self._waiting[count:]
        return count


def _no_text(error: UnicodeError) -> tuple[str | bytes, int]:
    """What cannot be decoded becomes a surrogate, and that, which cannot be encoded, 0xFF."""
    if isinstance(error, UnicodeDecodeError):
        return "\udcff", error.end
    assert isinstance(error, UnicodeEncodeError)
    return b"\xff" * (error.end - error.start), error.end


codecs.register_error(_NO_TEXT, _no_text)
