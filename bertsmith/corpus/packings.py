"""How files are packed, as the end of their names says."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import PurePosixPath
from typing import IO, Any

_LARGEST_WINDOW = 31
"""Of zstd, as a power of two: 2 GiB, which `--long=31` asks for, is the most there is."""

_ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"

_SHORT_FORMS = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}


def damage() -> tuple[type[Exception], ...]:
    """What readers raise, besides `OSError`, where the bytes are not what they are taken for."""
    # UnicodeError: of names; NotImplementedError: of what no writer of zip files asks for.
    of_archives = (zipfile.BadZipFile, tarfile.TarError, UnicodeError, NotImplementedError)
    zstd = sys.modules.get(_ZSTD)
    of_zstd = (zstd.ZstdError,) if zstd else ()
    return (EOFError, zlib.error, lzma.LZMAError, *of_zstd, *of_archives)


def _open_zstd(stream: IO[bytes]) -> Any:
    if (zstd := _zstd()) is None:
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(stream, "zstd"))
    window = {zstd.DecompressionParameter.window_log_max: _LARGEST_WINDOW}
    return zstd.open(stream, options=window)


def _zstd() -> Any:
    """Python's own reader of zstd, or its backport; None: pyarrow's has to do.

    The latter is always there, but reads windows of up to 128 MiB only.
    """
    try:
        return import_module(_ZSTD)  # by name: what need not be there has no types
    except ImportError:
        return None


_OPENERS: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}
COMPRESSIONS = tuple(_OPENERS)


def endings_of(name: str) -> tuple[str, str]:
    """What is in a file and how it is packed: (".txt", ".gz") of "a.TXT.gz", (".txt", "")."""
    path = PurePosixPath(name)
    form = _SHORT_FORMS.get(path.suffix.lower())
    path = path.with_suffix(form) if form else path
    if path.suffix.lower() in COMPRESSIONS:
        return PurePosixPath(path.stem).suffix.lower(), path.suffix.lower()
    return path.suffix.lower(), ""


def unpacked(stream: IO[bytes], packing: str) -> AbstractContextManager[IO[bytes]]:
    """What is packed in `stream`; `packing` is one of `COMPRESSIONS`."""
    return _OPENERS[packing](stream)


def why_not_unpacked(error: Exception, name: str, ending: str) -> str:
    """What is said of the file `name`, of `error` in reading it as its `ending` says."""
    reason = str(error) or type(error).__name__
    if ending.endswith(".zst") and "too much memory" in reason and _zstd() is None:
        return (
            f"{name} was packed with a window of over 128 MiB (zstd --long), which takes the "
            "library backports.zstd and memory for the window (--long=31: 2 GiB): "
            "pip install backports.zstd, or unpack it with zstd -d --long=31."
        )
    if ending.endswith(".zst") and "not enough memory" in reason:
        return (
            f"{name} was packed with a large window (zstd --long), for which there must be as much "
            "memory (--long=31: 2 GiB); there is less. Unpack it with zstd -d --long=31, or use "
            "fewer --processes."
        )
    return f"{name} is damaged, or not {ending}: {reason.rstrip('.')}."
