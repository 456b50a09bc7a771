"""Standard output and error: what becomes of what is shown does not decide what is done.

A stream may be closed, lie on a full disk, belong to a terminal that is gone, or not know a
character. Nothing of that reaches the work; it is remembered for the exit status.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


class LenientStream(io.TextIOBase):
    """A text stream on which writing never fails.

    What its encoding has no character for is written as Python escapes it.

    Args:
        under: where it writes; None: the process was started without such a stream.

    Attributes:
        failed: whether a write did.
        refusal: why the first one that failed did; None if its reader had left, as `head` does.
    """

    def __init__(self, under: TextIO | None) -> None:
        # While a bar is shown, rich puts a stream in this place that writes above the bar.
        self._under: TextIO | None = getattr(under, "rich_proxied_file", under)
        self._is_terminal = self.isatty()  # of one that is gone, nobody can tell any more
        self.failed = False
        self.refusal: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._under, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream under it."""
        return getattr(self._under, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        if self._under is None:
            return len(text)
        with self._without_failing():
            try:
                self._under.write(text)
            except UnicodeEncodeError:
                known = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
                self._under.write(known)
        return len(text)

    def flush(self) -> None:
        if self._under is not None:
            with self._without_failing():
                self._under.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        try:
            return self._under is not None and self._under.isatty()
        except ValueError:  # closed
            return False

    def fileno(self) -> int:
        if self._under is None:
            raise io.UnsupportedOperation("fileno")
        return self._under.fileno()

    def let_go(self) -> None:
        """Drop what could not be written, which Python would try again as it ends, and complain."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)

    @contextmanager
    def _without_failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a host's own stream any
            terminal_left = (
                self._is_terminal and isinstance(error, OSError) and error.errno == errno.EIO
            )
            if not (self.failed or terminal_left or isinstance(error, BrokenPipeError)):
                self.refusal = error
            self.failed = True
            if terminal_left:  # nothing will ever be written there again
                self.let_go()


@contextmanager
def standard_streams() -> Iterator[LenientStream]:
    """Let standard output and error be lenient inside; gives the former."""
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    lenient = LenientStream(sys.stdout), LenientStream(sys.stderr)
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in lenient)
    try:
        yield lenient[0]
    finally:
        sys.stdout, sys.stderr = before
        for stream in lenient:
            stream.flush()
            if stream.failed:
                stream.let_go()


def _open_closed_descriptors() -> None:
    """Or the next file that is opened, such as a checkpoint's, becomes standard output or error."""
    for number in (0, 1, 2):  # a descriptor that is opened is the lowest one that is free
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
