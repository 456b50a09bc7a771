"""Files as bytes, here or at an address, plain or packed, as the end of their names says."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from upath import UPath

from bertsmith.errors import CorpusError

File = Path | UPath
"""A file on this machine, or at an address that `fsspec` knows."""


def _open_zstd(stream: IO[bytes]) -> IO[bytes]:
    import pyarrow  # Python's own library has it from 3.14 on

    return io.BufferedReader(pyarrow.CompressedInputStream(stream, "zstd"))


_OPENERS: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}
COMPRESSIONS = tuple(_OPENERS)


def format_of(file: File) -> str:
    """The ending that says what is in a file: ".txt" of "a.txt" and of "a.TXT.gz"."""
    name = _name(file)
    return Path(name.stem).suffix.lower() if is_packed(file) else name.suffix.lower()


def is_packed(file: File) -> bool:
    """Whether a file is compressed as a whole, so that its middle cannot be read alone."""
    return _name(file).suffix.lower() in COMPRESSIONS


def _name(file: File) -> Path:
    """The last part of a path, or of an address without its query."""
    return Path(file.name if is_local(file) else file.name.partition("?")[0])


@contextmanager
def opened(file: File) -> Iterator[IO[bytes]]:
    """The bytes of `file`, unpacked on the way.

    Raises:
        CorpusError: inside, too: it cannot be read, or is not what its name says.
    """
    opener = _OPENERS.get(_name(file).suffix.lower())
    try:
        with told_errors(file) if not is_local(file) else nullcontext(), ExitStack() as stack:
            stream: IO[bytes] = stack.enter_context(file.open("rb"))
            if not is_local(file):  # its own lines have no longest length
                stream = stack.enter_context(io.BufferedReader(stream))  # type: ignore[type-var]
            yield stack.enter_context(opener(stream)) if opener else stream
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise CorpusError(f"{file} is damaged, or not {file.suffix}: {error}.") from error
    except OSError as error:
        if error.errno is None:  # of a library, and not of the system
            raise CorpusError(f"{file} is damaged, or not {file.suffix}: {error}.") from error
        raise CorpusError(f"Cannot read {file}: {error.strerror or error}.") from error


@contextmanager
def told_errors(file: File) -> Iterator[None]:
    """What the system, or a library that talks to an address, raises inside names the file.

    Raises:
        CorpusError: in its place.
    """
    try:
        yield
    except (CorpusError, GeneratorExit):
        raise
    except OSError as error:
        raise CorpusError(f"Cannot read {file}: {error.strerror or error}.") from error
    except Exception as error:
        if is_local(file):
            raise
        raise CorpusError(f"Cannot read {file}: {type(error).__name__}: {error}.") from error


def is_local(file: File) -> bool:
    """Whether a file is on this machine's own file system."""
    return not isinstance(file, UPath) or file.protocol in ("", "file", "local")
