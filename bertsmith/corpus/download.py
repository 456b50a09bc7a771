"""Fetching WikiText-2 into the cache: sources in turn, checked, unpacked and renamed into place."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from bertsmith.corpus.cache import cached_wikitext, wikitext_folder
from bertsmith.corpus.wikitext import FILES
from bertsmith.errors import DownloadError

BLOB_IDS = {
    "train": "2d84b35af79e411d73ea7cae83c73964c6ac83b4",
    "validation": "eec944eb2d9e46061cd34a6913528797db6842fc",
    "test": "6f3fc88e4cd88456ea892971f9f12243e8428624",
}
"""Git blob ids (SHA-1) of the published files: whatever a source sends must come to these."""

_LARGEST_FILE = 64 * 2**20  # bytes; the published files have 11 MB at most
_ROWS_AT_ONCE = 1024
_AGENT = {"User-Agent": "bertsmith (+https://pypi.org/project/bertsmith)"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the three files can be had, as one archive or as a Parquet file for each."""

    name: str
    urls: dict[str, str]
    """An address for each split, or one under `archive`."""
    sha1: str | None = None
    """Of the archive, where it is known; the unpacked files are checked in any case."""


SOURCES = (
    Source(
        name="the Hugging Face dataset Salesforce/wikitext",
        urls={
            split: "https://huggingface.co/datasets/Salesforce/wikitext/resolve/main/"
            f"wikitext-2-v1/{split}-00000-of-00001.parquet"
            for split in FILES
        },
    ),
    Source(
        name="wikitext.smerity.com",
        urls={"archive": "https://wikitext.smerity.com/wikitext-2-v1.zip"},
        sha1="3c914d17d80b1459be871a5039ac23e752a53cbe",
    ),
)


def fetch_wikitext(
    sources: Sequence[Source] = SOURCES,
    blob_ids: dict[str, str] = BLOB_IDS,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Path:
    """A folder with the published files; downloaded at the first call.

    Args:
        sources: tried in this order until one gives the files.
        blob_ids: the git blob id that each split's file must have.
        progress: called with the file's name, bytes so far, and bytes in all (0: not said).

    Raises:
        DownloadError: no source gave the files; the message has what each one answered.
    """
    if folder := cached_wikitext():
        return folder
    target = wikitext_folder()
    answers = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for source in sources:
            # A name of its own beside the target: a half download never bears the target's name.
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wikitext-2-") as work:
                try:
                    _fetch_from(source, Path(work), blob_ids, progress)
                except DownloadError as error:
                    answers.append(f"{source.name}: {error}")
                    continue
                return _move_into_place(Path(work) / "files", target)
    except OSError as error:
        raise DownloadError(f"Cannot write to {target.parent}: {error.strerror}.") from error
    raise DownloadError(
        f"No source gave WikiText-2. {' '.join(answers)} Check the network, or name a folder that "
        "holds wiki.train.tokens with --corpus."
    )


def _move_into_place(made: Path, target: Path) -> Path:
    try:
        made.rename(target)
    except OSError:  # another process was quicker; its files passed the same checks
        if not target.is_dir():
            raise
    return target


def _fetch_from(
    source: Source,
    work: Path,
    blob_ids: dict[str, str],
    progress: Callable[[str, int, int], None],
) -> None:
    """Fill `work/files` from `source`, or raise `DownloadError` with what it answered."""
    files = work / "files"
    files.mkdir()
    for split, url in source.urls.items():
        got = _download(url, work, source.sha1, progress)
        if split == "archive":
            _unpack(got, files)
        else:
            _write_rows(got, files / FILES[split])
    for split, blob_id in blob_ids.items():
        path = files / FILES[split]
        found = _git_blob_id(path) if path.is_file() else "nothing"
        if found != blob_id:
            raise DownloadError(f"{FILES[split]} must have git blob id {blob_id}; got {found}.")


def _download(
    url: str, work: Path, sha1: str | None, progress: Callable[[str, int, int], None]
) -> Path:
    pooch.get_logger().setLevel(logging.WARNING)  # else it writes to the terminal by itself
    name = url.rsplit("/", 1)[-1]

    def checked(url: str, output_file: str, caller: object) -> None:
        pooch.HTTPDownloader(progressbar=_Progress(name, progress), headers=_AGENT)(
            url, output_file, caller
        )
        _expect_kind(Path(output_file), name)

    try:
        path = pooch.retrieve(
            url, f"sha1:{sha1}" if sha1 else None, fname=name, path=work, downloader=checked
        )
    except requests.HTTPError as error:
        answer = error.response
        assert answer is not None
        kind = answer.headers.get("Content-Type", "no type")
        raise DownloadError(
            f"{name}: answered {answer.status_code} {answer.reason} ({kind})."
        ) from error
    except requests.RequestException as error:
        raise DownloadError(f"{name}: cut off or not reached ({type(error).__name__}).") from error
    except ValueError as error:
        raise DownloadError(f"{name}: the checksum must be sha1 {sha1}; it is another.") from error
    return Path(path)


class _Progress:
    """What pooch expects of a progress bar, told on to a function. Also bounds what is accepted."""

    def __init__(self, name: str, tell: Callable[[str, int, int], None]) -> None:
        self.name, self.tell, self.total, self.done = name, tell, 0, 0

    def update(self, num_bytes: int) -> None:
        self.done += num_bytes
        if self.done > 2 * _LARGEST_FILE:
            raise DownloadError(f"{self.name}: over {2 * _LARGEST_FILE} bytes came.")
        self.tell(self.name, min(self.done, self.total or self.done), self.total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        self.tell(self.name, self.total, self.total)


def _expect_kind(path: Path, name: str) -> None:
    """Refuse an answer that is a page of an error instead of the file that was asked for."""
    with path.open("rb") as stream:
        head = stream.read(256)
    wanted, magic = ("a zip archive", b"PK") if name.endswith(".zip") else ("Parquet", b"PAR1")
    if head.startswith(magic):
        return
    text = head.lstrip().lower()
    if text.startswith(b"<?xml"):
        came = "an XML page"
    elif text.startswith((b"<!doctype html", b"<html")):
        came = "an HTML page"
    else:
        came = f"{path.stat().st_size} bytes of something else"
    raise DownloadError(f"{name}: {wanted} was asked for; {came} came.")


def _unpack(archive: Path, files: Path) -> None:
    """Write the three members by their known names: no name from the archive becomes a path."""
    for file in FILES.values():
        (files / file).write_bytes(_read_member(archive, f"wikitext-2/{file}"))


def _read_member(archive: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(archive) as members:
            member = members.getinfo(name)
            if member.file_size <= _LARGEST_FILE:
                return members.read(member)  # no more than it claims
    except Exception as error:  # what damage does to the library's own arithmetic has no one name
        raise DownloadError(f"{archive.name}: the archive is damaged ({error}).") from error
    raise DownloadError(f"{name} claims {member.file_size} bytes unpacked.")


def _write_rows(parquet: Path, target: Path) -> None:
    """A row is a line; the dataset keeps the published blank lines (a space) as empty rows."""
    lines, size = [], 0
    # A few compressed bytes can stand for any number of rows: these are counted as they come.
    for row in _rows(parquet):
        lines.append(row if row.endswith("\n") else f"{row or ' '}\n")
        size += len(lines[-1].encode("utf-8"))
        if size > _LARGEST_FILE:
            raise DownloadError(f"{parquet.name}: over {_LARGEST_FILE} bytes of rows.")
    target.write_text("".join(lines), encoding="utf-8", newline="\n")


def _rows(parquet: Path) -> Iterator[str]:
    import pyarrow.parquet

    try:
        # Rows that are all the same stay one value and its number until they are asked for.
        with pyarrow.parquet.ParquetFile(parquet, read_dictionary=["text"]) as table:
            for batch in table.iter_batches(_ROWS_AT_ONCE, columns=["text"]):
                for value in batch["text"]:
                    row = value.as_py() or ""
                    if not isinstance(row, str):
                        raise TypeError("its rows are not text")
                    yield row
    except Exception as error:  # what damage does to the library's own arithmetic has no one name
        raise DownloadError(f"{parquet.name}: the Parquet file is damaged ({error}).") from error


def _git_blob_id(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
