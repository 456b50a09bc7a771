"""Fetching WikiText-2 into the cache: from the Hugging Face Hub, or from a mirror; checked."""

from __future__ import annotations

import hashlib
import http.client
import io
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from upath import UPath

from bertsmith.corpus.cache import cached_wikitext, wikitext_folder
from bertsmith.corpus.opened import size_of
from bertsmith.corpus.parquet import rows_of_parquet
from bertsmith.corpus.wikitext import FILES
from bertsmith.errors import CorpusError, DownloadError

BLOB_IDS = {
    "train": "2d84b35af79e411d73ea7cae83c73964c6ac83b4",
    "validation": "eec944eb2d9e46061cd34a6913528797db6842fc",
    "test": "6f3fc88e4cd88456ea892971f9f12243e8428624",
}
"""Git blob ids (SHA-1) of the published files: whatever a source sends must come to these."""

_HUB = "hf://datasets/Salesforce/wikitext@b08601e04326c79dfdd32d625aee71d232d685c3/wikitext-2-v1"
_MIRROR = "https://wikitext.smerity.com/wikitext-2-v1.zip"
_MIRROR_SHA1 = "3c914d17d80b1459be871a5039ac23e752a53cbe"

_AGENT = {"User-Agent": "bertsmith (+https://pypi.org/project/bertsmith)"}
_LARGEST_FILE = 64 * 2**20  # bytes; the published files have 11 MB at most
_TIMEOUT_SECONDS = 20

Progress = Callable[[str, int, int], None]
"""Told a file's name, bytes so far, and bytes in all (0: not said)."""

Source = Callable[[Progress], dict[str, bytes]]
"""Gives the file of each split."""


def from_hub(progress: Progress, folder: Path | UPath | None = None) -> dict[str, bytes]:
    """The files out of the dataset's Parquet files. Raises: `CorpusError`.

    Args:
        progress: told of each file.
        folder: of the Parquet files; None: that of the Hugging Face Hub, at a fixed revision.
    """
    files = {}
    for split in FILES:
        file = (folder or UPath(_HUB)) / f"{split}-00000-of-00001.parquet"
        size = size_of(file)
        progress(file.name, 0, size)
        files[split] = _lines(file)
        progress(file.name, size, size)
    return files


def from_mirror(
    progress: Progress, url: str = _MIRROR, sha1: str = _MIRROR_SHA1
) -> dict[str, bytes]:
    """The files out of the archive as it was published first. Raises: `DownloadError`.

    Args:
        progress: told as bytes come.
        url, sha1: of the archive.
    """
    name = url.rpartition("/")[2]
    content = bytearray()
    try:
        request = urllib.request.Request(url, headers=_AGENT)  # noqa: S310
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
            total = int(answer.headers.get("Content-Length", 0))
            while len(content) < _LARGEST_FILE and (block := answer.read(2**16)):
                content += block
                progress(name, len(content), total)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{name}: answered {error.code} {error.reason}.") from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{name}: cut off or not reached ({error}).") from error
    found = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    if found != sha1:
        raise DownloadError(f"{name}: the checksum must be sha1 {sha1}; it is {found}.")
    with zipfile.ZipFile(io.BytesIO(content)) as members:
        return {split: members.read(f"wikitext-2/{file}") for split, file in FILES.items()}


SOURCES: dict[str, Source] = {
    "the Hugging Face Hub": from_hub,
    "wikitext.smerity.com": from_mirror,
}


def fetch_wikitext(
    sources: Mapping[str, Source] = SOURCES,
    blob_ids: dict[str, str] = BLOB_IDS,
    progress: Progress = lambda name, done, total: None,
) -> Path:
    """A folder with the published files; downloaded at the first call.

    Args:
        sources: by name; tried in this order until one gives the files.
        blob_ids: the git blob id that each split's file must have.
        progress: called as bytes come.

    Raises:
        DownloadError: no source gave the files; the message has what each one answered.
    """
    if folder := cached_wikitext():
        return folder
    target = wikitext_folder()
    answers = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for name, fetch in sources.items():
            try:
                files = fetch(progress)
                _check(files, blob_ids)
            except CorpusError as error:
                answers.append(f"{name}: {error}")
            else:
                return _write(files, target)
    except OSError as error:
        raise DownloadError(f"Cannot write to {target.parent}: {error.strerror}.") from error
    raise DownloadError(
        f"No source gave WikiText-2. {' '.join(answers)} Check the network, or name a folder that "
        "holds wiki.train.tokens with --corpus."
    )


def _write(files: dict[str, bytes], target: Path) -> Path:
    # A name of its own beside the target: half of the files never bear the target's name.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wikitext-2-") as work:
        made = Path(work) / "files"
        made.mkdir()
        for split, content in files.items():
            (made / FILES[split]).write_bytes(content)
        try:
            made.rename(target)
        except OSError:  # another process was quicker; its files passed the same checks
            if not target.is_dir():
                raise
    return target


def _check(files: dict[str, bytes], blob_ids: dict[str, str]) -> None:
    for split, blob_id in blob_ids.items():
        found = _git_blob_id(files[split])
        if found != blob_id:
            raise DownloadError(f"{FILES[split]} must have git blob id {blob_id}; got {found}.")


def _git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _lines(parquet: Path | UPath) -> bytes:
    """A row is a line; the dataset keeps the published blank lines (a space) as empty rows."""
    content = bytearray()
    # A few compressed bytes can stand for any number of rows: these are counted as they come.
    for row in rows_of_parquet(parquet, None, ["text"]):
        line = str(row.fields["text"] or " ")
        content += (line if line.endswith("\n") else f"{line}\n").encode()
        if len(content) > _LARGEST_FILE:
            raise DownloadError(f"{parquet.name}: over {_LARGEST_FILE} bytes of rows.")
    return bytes(content)
