"""Files as bytes, plain or compressed, whatever the end of their names says."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bertsmith.errors import CorpusError


def _open_zstd(file: Path) -> IO[bytes]:
    import pyarrow  # Python's own library has it from 3.14 on

    return io.BufferedReader(pyarrow.input_stream(str(file), compression="zstd"))


_OPENERS: dict[str, Callable[[Path], IO[bytes]]] = {
    ".gz": gzip.open,  # type: ignore[dict-item]
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}
COMPRESSIONS = tuple(_OPENERS)


def format_of(file: Path) -> str:
    """The ending that says what is in a file: ".txt" of "a.txt" and of "a.TXT.gz"."""
    name = Path(file.stem) if file.suffix.lower() in COMPRESSIONS else file
    return name.suffix.lower()


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of `file`, unpacked on the way.

    Raises:
        CorpusError: inside, too: it cannot be read, or is not what its name says.
    """
    opener = _OPENERS.get(file.suffix.lower())
    try:
        with opener(file) if opener else file.open("rb") as stream:
            yield stream
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise CorpusError(f"{file} is damaged, or not {file.suffix}: {error}.") from error
    except OSError as error:
        if error.errno is None:  # of a library, and not of the system
            raise CorpusError(f"{file} is damaged, or not {file.suffix}: {error}.") from error
        raise CorpusError(f"Cannot read {file}: {error.strerror}.") from error
