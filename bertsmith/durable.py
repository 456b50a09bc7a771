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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKSUMS_FILE = "SHA256SUMS"
"""In the format of `sha256sum`, which also checks it."""

_LEFTOVER = re.compile(r"\.(.+)\.(?:part|old)")
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_.-]+)")
_MOST_SUM_BYTES = 2**16


def write_text(path: Path, text: str) -> None:
    """Put `text` into the file `path`, in the place of what is there."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    flush(part)
    os.replace(part, path)
    flush(path.parent)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder to fill that takes the place of `target` at the end, or vanishes on an error.

    It gets the checksums of its files.
    """
    work = target.with_name(f".{target.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    make_folder(target.parent)
    work.mkdir()
    try:
        yield work
        mode = work.stat().st_mode & 0o666  # a library's files may be for their owner alone
        for path in work.iterdir():
            path.chmod(mode)
            flush(path)
        write_text(work / CHECKSUMS_FILE, _checksums(work))
        if target.exists():
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
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "It is no regular file", str(path))
    with path.open("rb") as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"It has more than {most_bytes} bytes", str(path))
    return content


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if they are not there."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder such that no half of it is ever seen under its name."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    shutil.rmtree(old)


def leftovers(folder: Path) -> dict[Path, str]:
    """What killed processes left half-written or half-removed, and the names it was meant for."""
    paths = list(folder.iterdir()) if folder.is_dir() else []
    found = {path: _LEFTOVER.fullmatch(path.name) for path in paths}
    return {path: match[1] for path, match in found.items() if match}


def remove_leftovers(folder: Path, names: Callable[[str], object]) -> None:
    """Remove leftovers in `folder` that were meant for names of which `names` is true."""
    for path, name in leftovers(folder).items():
        if names(name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that `whole_folder` made; None: every byte is as written.

    Raises:
        OSError: it cannot be read; whether it is damaged is not known.
    """
    try:
        if not stat.S_ISREG((folder / CHECKSUMS_FILE).stat().st_mode):
            return f"{CHECKSUMS_FILE} is not a regular file"
        with (folder / CHECKSUMS_FILE).open("rb") as stream:
            text = stream.read(_MOST_SUM_BYTES).decode("ascii", "replace")
        lines = [_SUM_LINE.fullmatch(line) for line in text.splitlines()]
        if not lines or not text.endswith("\n") or None in lines:
            return f"{CHECKSUMS_FILE} is not a list of checksums"
        for line in filter(None, lines):
            path = folder / line[2]
            if path.exists() and not path.is_file():  # a pipe would be waited for
                return f"{path.name} is not a regular file"
            if _digest(path) != line[1]:
                return f"{path.name} does not match its checksum"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    listed = {line[2] for line in lines if line}
    for path in folder.iterdir():
        if path.name not in listed | {CHECKSUMS_FILE}:
            return f"{CHECKSUMS_FILE} does not list {path.name}"
    return None


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    # A file is opened to be written: some systems refuse to flush it otherwise.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksums(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.name != CHECKSUMS_FILE)
    return "".join(f"{_digest(path)}  {path.name}\n" for path in files)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
