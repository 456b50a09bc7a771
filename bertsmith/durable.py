"""Files and folders that are on disk whole or not at all, whenever the process or the machine dies.

What is written goes to a temporary name beside its place, is flushed to the disk and then renamed;
the rename is flushed, too. Names that begin with a dot and end with `.part` or `.old` are what a
killed process left; nothing reads them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bertsmith.errors import BertsmithError

CHECKSUMS_FILE = "SHA256SUMS"
"""In the format of `sha256sum`, which also checks it."""

LOST = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What the system says where there is no file; ELOOP of a link that leads to itself."""

NO_SMALL_FILE = _NOT_REGULAR, _TOO_LARGE = (errno.EINVAL, errno.EFBIG)
"""What `read_small` says of what it does not read."""

_LEFTOVER = re.compile(r"\.(.+)\.(?:part|old)")
_OWN_SUM_LINE = re.compile(r"([0-9a-f]{64})  ((?:[A-Za-z0-9_-]+/)*[A-Za-z0-9_.-]+)")
_SUM_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")
"""As `sha256sum` writes it of text and of binary files, in this folder and below it."""

_MOST_SUM_BYTES = 2**20
_HEX_DIGITS = 64
_MOST_SUMMED_BYTES = 2**31


@contextmanager
def whole_file(
    path: Path, *, flushed: bool = True, has_other_writers: bool = False
) -> Iterator[Path]:
    """A name to write a file under; the file takes the place of `path` at the end.

    On an error it vanishes, and what was there stays.

    Args:
        path: the file.
        flushed: whether it is on the disk when this ends; if not, a machine that dies may lose it.
        has_other_writers: whether another process may write the same file now, such as one that was
            left behind.
    """
    process = f".{os.getpid()}" if has_other_writers else ""
    part = path.with_name(f".{path.name}{process}.part")
    try:
        yield part
        if flushed:
            flush(part)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    if flushed:
        flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Put `text` into the file `path`, in the place of what is there."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_with_sum(path: Path, content: bytes) -> None:
    """Put `content` into a file, with its digest after it; not flushed: the digest tells."""
    with whole_file(path, flushed=False, has_other_writers=True) as part:
        part.write_bytes(content + hashlib.sha256(content).hexdigest().encode())


def read_with_sum(path: Path) -> bytes | None:
    """What `write_with_sum` wrote; None: it is not there, or is damaged. Raises: `OSError`."""
    try:
        raw = read_small(path, _MOST_SUMMED_BYTES)
    except OSError as error:
        if error.errno not in LOST + NO_SMALL_FILE:
            raise
        return None
    content, digest = raw[:-_HEX_DIGITS], raw[-_HEX_DIGITS:]
    return content if hashlib.sha256(content).hexdigest().encode() == digest else None


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder to fill that takes the place of `target` at the end, or vanishes on an error.

    It gets the checksums of its files, those in folders inside it among them.

    Raises:
        BertsmithError: as `make_folder`.
    """
    refuse_undecodable(target)
    work = target.with_name(f".{target.name}.part")
    if os.path.lexists(work):
        remove(work)
    make_folder(target.parent)
    work.mkdir()
    try:
        yield work
        mode = work.stat().st_mode & 0o666  # a library's files may be for their owner alone
        for path in work.rglob("*"):
            if path.is_file():
                path.chmod(mode)
            flush(path)
        write_text(work / CHECKSUMS_FILE, _checksums(work))
        if os.path.lexists(target):
            remove_folder(target)
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    flush(target.parent)


def read_small(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file that has at most so many bytes.

    Raises:
        OSError: it cannot be read, is a pipe or a device, which would be waited for or never ends,
            or has more bytes; `strerror` says so.
    """
    if not _is_regular(path):
        raise OSError(_NOT_REGULAR, "It is no regular file", str(path))
    with path.open("rb") as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(_TOO_LARGE, f"It has more than {most_bytes} bytes", str(path))
    return content


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if they are not there.

    Raises:
        BertsmithError: its name cannot be written down.
    """
    refuse_undecodable(path)
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush(path.parent)


def refuse_undecodable(path: Path) -> None:
    """Raise `BertsmithError` for a place whose name is no text.

    Libraries that write files take names in UTF-8 alone, and so do the JSON and TOML in them.
    """
    try:
        str(path.absolute()).encode("utf-8")
    except UnicodeEncodeError as error:
        raise BertsmithError(
            f"The path {error.object} must be in UTF-8 to be written to; it is not. Rename the "
            "folder, or name another place."
        ) from error


def remove_folder(path: Path) -> None:
    """Remove a folder, or what is in its place, such that no half is ever seen under its name."""
    old = path.with_name(f".{path.name}.old")
    if os.path.lexists(old):
        remove(old)
    path.rename(old)
    remove(old)


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, a file, or a link and not what it leads to."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def leftovers(folder: Path) -> dict[Path, str]:
    """What killed processes left half-written or half-removed, and the names it was meant for."""
    paths = list(folder.iterdir()) if folder.is_dir() else []
    found = {path: _LEFTOVER.fullmatch(path.name) for path in paths}
    return {path: match[1] for path, match in found.items() if match}


def remove_leftovers(folder: Path, names: Callable[[str], object]) -> None:
    """Remove leftovers in `folder` that were meant for names of which `names` is true."""
    for path, name in leftovers(folder).items():
        if names(name):
            remove(path)


def damage(folder: Path, among: Container[str] | None = None) -> str | None:
    """What is wrong with a folder that `whole_folder` made; None: every byte is as written.

    Args:
        folder: with its checksums.
        among: names of the files that are looked at, in a folder that others may have made; None:
            all, and there may be no others.

    Raises:
        OSError: it cannot be read; whether it is damaged is not known.
    """
    try:
        sums = _listed(folder) if among is None else _listed_by_others(folder, among)
        if sums is None:
            return f"{CHECKSUMS_FILE} is not a list of checksums"
        for name, digest in sums.items():
            path = folder / name
            if not _is_regular(path):
                return f"{path.name} is not a regular file"
            if sha256_of(path) != digest:
                return f"{path.name} does not match its checksum"
    except OSError as error:
        if error.errno in NO_SMALL_FILE:
            return f"{CHECKSUMS_FILE} is not a regular file of at most {_MOST_SUM_BYTES} bytes"
        if error.errno not in LOST:
            raise
        return f"{Path(error.filename).name} is missing"
    unlisted = _names(folder) - {*sums, CHECKSUMS_FILE} if among is None else ()
    return f"{CHECKSUMS_FILE} does not list {min(unlisted)}" if unlisted else None


def is_ours(folder: Path) -> bool:
    """Whether a folder is one that `whole_folder` made, and nothing else was put into it."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        names = _names(folder)
        lines = _sums_text(folder).splitlines()
    except OSError:
        return False
    return names <= {line.partition("  ")[2] for line in lines} | {CHECKSUMS_FILE}


def _listed(folder: Path) -> dict[str, str] | None:
    """Digests by the names of files; None: it is not a list as `whole_folder` writes it."""
    text = _sums_text(folder)
    found = [_OWN_SUM_LINE.fullmatch(line) for line in text.splitlines()]
    if not found or not text.endswith("\n") or None in found:
        return None
    return {line[2]: line[1] for line in found if line}


def _listed_by_others(folder: Path, among: Container[str]) -> dict[str, str] | None:
    """The same of a list that may be written in other ways and name other files, too."""
    found = list(filter(None, map(_SUM_LINE.fullmatch, _sums_text(folder).splitlines())))
    return {line[2]: line[1].lower() for line in found if line[2] in among} if found else None


def _sums_text(folder: Path) -> str:
    """A folder's checksums. Raises: `OSError`, also if they are no small file."""
    return read_small(folder / CHECKSUMS_FILE, _MOST_SUM_BYTES).decode("utf-8", "replace")


def _is_regular(path: Path) -> bool:
    """Whether it is a file: a pipe would be waited for, a device may never end."""
    return stat.S_ISREG(path.stat().st_mode)


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    # A file is opened to be written: some systems refuse to flush it otherwise.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksums(folder: Path) -> str:
    names = sorted(_names(folder) - {CHECKSUMS_FILE})
    return "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names)


def _names(folder: Path) -> set[str]:
    """What is in a folder and in those inside it but for folders, by its path from there."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in found}


def sha256_of(path: Path) -> str:
    """The digest of a file, in hexadecimal digits. Raises: `OSError`."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
