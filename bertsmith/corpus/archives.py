"""Members of archives (zip, and tar, packed or not) as files; nothing is unpacked onto the disk.

A zip file says where each member is. A tar file is a row of members: where they are is found by
going through it once, and those of a packed one are reached by unpacking what stands before. So
each process keeps the archive it reads open, and goes on from where it is.
"""

from __future__ import annotations

import io
import itertools
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from upath import UPath

from bertsmith.corpus.packings import endings_of, unpacked
from bertsmith.errors import CorpusError

Archive = Path | UPath

_LONGEST_HEADER = 2**20
"""Bytes of a tar file that describe one member; it is held in memory."""

_BLOCK_BYTES = 2**22
_KEPT_BLOCKS = 4  # what is looked at and then read is unpacked once

# Not LZMA: its members may ask for a dictionary of gigabytes, which the library does not bound.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_ENCRYPTED = 0x41  # a flag of either kind
_NO_FILES = "links and devices in archives"
_LOCAL_HEADER = 30  # bytes of a zip file before a member's name


@dataclass(frozen=True)
class Member:
    """A regular file in an archive. It can be sent to another process."""

    archive: Archive
    path: str
    """As the archive has it; it is never a path on this machine."""
    place: int
    """In a zip file, the number of the member; in a tar file, unpacked, its first byte."""
    size: int
    """Bytes, unpacked."""

    def __str__(self) -> str:
        return f"{self.archive}/{self.path}"

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """The end of its name."""
        return PurePosixPath(self.path).suffix

    @property
    def is_packed(self) -> bool:
        """Whether its middle cannot be read without what stands before."""
        return endings_of(self.archive.name) != (".tar", "")

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Its bytes."""
        if endings_of(self.archive.name)[0] == ".zip":
            opened = _zip_file(self.archive, _version(self.archive))
            return io.BufferedReader(opened.open(opened.infolist()[self.place]))  # type: ignore[type-var]
        return io.BufferedReader(_Slice(self.archive, self.place, self.size), 2**17)


def members_of(archive: Archive) -> tuple[list[Member], Counter[str]]:
    """The members of an archive that are not hidden, in its order; of several of one name the last.

    Returns:
        The members, and counts of what is left out by kind: links, devices.

    Raises:
        CorpusError: it cannot be read without more, as one that is encrypted.
        zipfile.BadZipFile, tarfile.TarError, OSError and others: it is damaged.
    """
    find = _in_zip if endings_of(archive.name)[0] == ".zip" else _in_tar
    found: dict[str, Member] = {}
    left_out: Counter[str] = Counter()
    for path, place, size, kind in find(archive):
        parts = PurePosixPath(path).parts
        if ".." in parts:
            left_out["members outside of their archive"] += 1
            continue
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        if kind:
            left_out[kind] += 1
            continue
        name = "/".join(parts)
        found.pop(name, None)  # where the last one stands is where it is read
        found[name] = Member(archive, name, place, size)
    return list(found.values()), left_out


_Found = Iterator[tuple[str, int, int, str]]
"""Paths, places and sizes of members, and what they are if they are no regular files."""


def _in_zip(archive: Archive) -> _Found:
    infos = _zip_file(archive, _version(archive)).infolist()
    for before, info in itertools.pairwise(sorted(infos, key=lambda info: info.header_offset)):
        if before.header_offset + _LOCAL_HEADER + before.compress_size > info.header_offset:
            raise zipfile.BadZipFile(f"{info.filename!r} overlaps another member")
    for number, info in enumerate(infos):
        if not info.filename or info.filename.endswith("/"):  # its own look fails without a name
            continue
        if info.flag_bits & _ENCRYPTED:
            raise CorpusError(f"{archive} must not be encrypted; unpack it, and name the folder.")
        if info.compress_type not in _METHODS:
            raise CorpusError(
                f"{archive} must be packed by deflate or bzip2; {info.filename!r} is packed by "
                f"method {info.compress_type}. Unpack it, and name the folder."
            )
        is_link = stat.S_ISLNK(info.external_attr >> 16)
        yield info.filename, number, info.file_size, _NO_FILES if is_link else ""


def _in_tar(archive: Archive) -> _Found:
    headers = _Headers(io.BufferedReader(_Slice(archive, 0, None)))
    with tarfile.open(fileobj=headers, mode="r:") as opened:  # type: ignore[call-overload]
        while (info := opened.next()) is not None:
            opened.members = []  # it would keep them all  # type: ignore[misc]
            kind = "" if info.isreg() and not info.issparse() else _NO_FILES
            if not info.isdir():
                yield info.name, info.offset_data, info.size, kind
        # A header that is damaged ends the list, as if the archive ended.
        headers.seek(opened.offset)
        if headers.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"no header of a member at byte {opened.offset}")


class _Headers:
    """An archive of which no header is longer than memory bears."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)


class _Slice(io.RawIOBase):
    """Bytes of an unpacked archive from `start` on, as many as `size` says; None: all."""

    def __init__(self, archive: Archive, start: int, size: int | None) -> None:
        self._archive, self._version = archive, _version(archive)
        self._start, self._size, self._place = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END and self._size is None:
            raise io.UnsupportedOperation("the end is not known")
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size or 0}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = len(buffer)
        if self._size is not None:
            wanted = max(0, min(wanted, self._size - self._place))
        if not wanted:
            return 0
        read = _cursor(self._archive, self._version).read(self._start + self._place, wanted)
        if not read and self._size is not None:
            raise EOFError("it ends inside a member")
        buffer[: len(read)] = read
        self._place += len(read)
        return len(read)


class _Cursor:
    """A tar file that is open at some place; of a packed one, the last few blocks before it."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._packing = endings_of(archive.name)[1]
        self._stack = ExitStack()
        self._stream: IO[bytes] | None = None
        self._blocks: dict[int, bytes] = {}
        self._num_blocks = 0

    def read(self, place: int, size: int) -> bytes:
        """Up to `size` bytes from `place` on, at least one unless it is the end."""
        try:
            if self._packing:
                return self._block(place // _BLOCK_BYTES)[place % _BLOCK_BYTES :][:size]
            stream = self._stream or self._open()
            stream.seek(place)
            return stream.read(size)
        except BaseException:
            self._close()
            raise

    def _block(self, number: int) -> bytes:
        if number < self._num_blocks and number not in self._blocks:
            self._close()  # and from the beginning
        stream = self._stream or self._open()
        while self._num_blocks <= number:
            self._blocks[self._num_blocks] = stream.read(_BLOCK_BYTES)
            self._blocks.pop(self._num_blocks - _KEPT_BLOCKS, None)
            self._num_blocks += 1
        return self._blocks[number]

    def _open(self) -> IO[bytes]:
        self._stream = self._stack.enter_context(self._archive.open("rb"))
        if self._packing:
            self._stream = self._stack.enter_context(unpacked(self._stream, self._packing))
        return self._stream

    def _close(self) -> None:
        self._stream, self._num_blocks = None, 0
        self._blocks.clear()
        self._stack.close()

    def __del__(self) -> None:
        self._stack.close()


def _version(archive: Archive) -> tuple[int, float]:
    """What changes when another file takes the archive's place."""
    about = archive.stat()
    return about.st_size, about.st_mtime


@lru_cache(maxsize=2)
def _cursor(archive: Archive, version: tuple[int, float]) -> _Cursor:
    return _Cursor(archive)


@lru_cache(maxsize=2)
def _zip_file(archive: Archive, version: tuple[int, float]) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive if not isinstance(archive, UPath) else archive.open("rb"))
