"""Files as bytes, here or at an address or in an archive, plain or packed, as their names say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO

from upath import UPath

from bertsmith.corpus.archives import Member, members_of
from bertsmith.corpus.encodings import as_utf8
from bertsmith.corpus.packings import damage, endings_of, unpacked, why_not_unpacked
from bertsmith.errors import CorpusError

UTF8 = "utf-8"
_UNPACKED_SIZE = 4  # times the packed size, about


@dataclass(frozen=True)
class Encoded:
    """A file of text in another encoding than UTF-8. It can be sent to another process."""

    file: Path | UPath | Member
    encoding: str

    def __str__(self) -> str:
        return str(self.file)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.file.name

    @property
    def suffix(self) -> str:
        """The end of its name."""
        return self.file.suffix

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Its bytes as they are."""
        return self.file.open("rb")


File = Path | UPath | Member | Encoded
"""A file on this machine, or at an address that `fsspec` knows, or in an archive at either."""


def in_encoding(file: File, encoding: str) -> File:
    """`file`, whose text is in `encoding`; `opened` gives it as UTF-8. Parquet has its own."""
    if encoding == UTF8 or isinstance(file, Encoded) or format_of(file) == ".parquet":
        return file
    return Encoded(file, encoding)


def encoding_of(file: File) -> str:
    """The encoding that a file is said to be in; empty: UTF-8."""
    return file.encoding if isinstance(file, Encoded) else ""


def format_of(file: File) -> str:
    """The ending that says what is in a file: ".txt" of "a.txt" and of "a.TXT.gz"."""
    return endings_of(_name(file))[0]


def is_packed(file: File) -> bool:
    """Whether a file is compressed as a whole, so that its middle cannot be read alone."""
    file = _within(file)
    return bool(endings_of(_name(file))[1]) or (isinstance(file, Member) and file.is_packed)


def size_of(file: File) -> int:
    """Bytes of `file`, about as many as it has unpacked.

    Raises:
        CorpusError: it cannot be read.
    """
    file = _within(file)
    with told_errors(file):
        size: int = file.size if isinstance(file, Member) else file.stat().st_size
    return size * _UNPACKED_SIZE if endings_of(_name(file))[1] else size


def _within(file: File) -> Path | UPath | Member:
    return file.file if isinstance(file, Encoded) else file


def place_of(file: File) -> Path | UPath:
    """Where a file is, or the archive that it is in."""
    file = _within(file)
    return file.archive if isinstance(file, Member) else file


def _name(file: File) -> str:
    """The last part of a path, or of an address without its query."""
    is_address = isinstance(_within(file), UPath) and not is_local(file)
    return file.name.partition("?")[0] if is_address else file.name


@contextmanager
def opened(file: File) -> Iterator[IO[bytes]]:
    """The bytes of `file`, unpacked on the way; text in UTF-8, if it says what it is in.

    Raises:
        CorpusError: inside, too: it cannot be read, or is not what its name says.
    """
    packing = endings_of(_name(file))[1]
    with _told_damage(file), ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(file.open("rb"))
        if not is_local(file):  # its own lines have no longest length
            stream = stack.enter_context(BufferedReader(stream))  # type: ignore[type-var]
        if packing:
            stream = stack.enter_context(unpacked(stream, packing))
        yield as_utf8(stream, encoding_of(file) or UTF8)


@contextmanager
def opened_as_it_is(file: File) -> Iterator[IO[bytes]]:
    """The bytes of `file`, packed if it is, in the encoding that it is in.

    Raises:
        CorpusError: inside, too: it cannot be read, or the archive that it is in is damaged.
    """
    with _told_damage(file), file.open("rb") as stream:
        yield stream


def version_at_address(file: File) -> str:
    """What the host of a file that is not here says of its version. Raises: `CorpusError`."""
    path = place_of(file)
    assert isinstance(path, UPath)
    with told_errors(file):
        return f"{encoding_of(file)}{path.fs.checksum(path.path)}"


def is_member(file: File) -> bool:
    """Whether a file is in an archive."""
    return isinstance(_within(file), Member)


def is_archive(file: File) -> bool:
    """Whether a file holds others, by its name."""
    kind, packing = endings_of(_name(file))
    return kind == ".tar" or (kind == ".zip" and not packing)


def files_in(archive: Path | UPath) -> tuple[list[File], Counter[str]]:
    """The files in an archive, in its order, and counts by kind of what is none: links, devices.

    Raises:
        CorpusError: it cannot be read, or not by members.
    """
    with _told_damage(archive):
        files, others = members_of(archive)
    return [*files], others


@contextmanager
def _told_damage(file: File) -> Iterator[None]:
    """What is raised inside where bytes are not what names say names the file.

    Raises:
        CorpusError: in its place.
    """
    path = place_of(file)
    ending = endings_of(path.name)[1] or path.suffix
    if is_archive(path):
        ending = "".join(endings_of(path.name))
    try:
        with told_errors(file) if not is_local(file) else nullcontext():
            yield
    except damage() as error:
        raise CorpusError(why_not_unpacked(error, str(file), ending)) from error
    except OSError as error:
        if error.errno is None:  # of a library, and not of the system
            raise CorpusError(why_not_unpacked(error, str(file), ending)) from error
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
    path = place_of(file)
    return not isinstance(path, UPath) or path.protocol in ("", "file", "local")
