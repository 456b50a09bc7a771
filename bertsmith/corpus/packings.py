"""How files are packed, as the end of their names says."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import IO, Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LARGEST_WINDOW = 31
"""Of zstd, as a power of two: 2 GiB, which `--long=31` asks for, is the most there is."""

_SHORT_FORMS = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}


def damage() -> tuple[type[Exception], ...]:
    """What readers raise, besides `OSError`, where the bytes are not what they are taken for."""
    # UnicodeError: of names; NotImplementedError: of what no writer of zip files asks for.
    of_archives = (zipfile.BadZipFile, tarfile.TarError, UnicodeError, NotImplementedError)
    return (EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError, *of_archives)


def _open_zstd(stream: IO[bytes]) -> Any:
    window = {int(zstd.DecompressionParameter.window_log_max): _LARGEST_WINDOW}
    return zstd.open(stream, options=window)


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
    reason = str(error)[:200] or type(error).__name__  # it may quote bytes of the file
    if ending.endswith(".zst") and "not enough memory" in reason:
        return (
            f"{name} was packed with a large window (zstd --long), for which there must be as much "
            "memory (--long=31: 2 GiB); there is less. Unpack it with zstd -d --long=31, or use "
            "fewer --processes."
        )
    return f"{name} is damaged, or not {ending}: {reason.rstrip('.')}."
