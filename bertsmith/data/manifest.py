"""The manifest of a token store: what is in its folder, and how each file is known.

The format is written down in docs/data-format.md. Everything in a manifest has a type and a range,
and it is held against its own checksum: whoever reads one may believe it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from bertsmith.config import MOST_MANIFEST_BYTES, STORE_MANIFEST_FILE
from bertsmith.data.store import Size, digest_of_shards
from bertsmith.durable import LOST, NO_SMALL_FILE, read_small
from bertsmith.errors import DataError

MANIFEST_FILE = STORE_MANIFEST_FILE
TOKENIZER_FOLDER = "tokenizer"
FREQUENCIES_FILE = "frequencies.npy"
FORMAT = 2
SPLITS = ("train", "validation", "test")

_LARGEST_VOCABULARY = 2**24
_DIGITS = 64  # of a digest

_REPORTED = ("documents", "sentences", "tokens", "unknown_tokens")
"""Counts of a split without which nothing can be told of it."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class DamagedFileError(DataError):
    """A file is missing, or is not what was written. What cannot be read is another `DataError`."""


class ShardEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A shard, as the manifest has it."""

    file: str
    """Inside the store's folder."""
    sha256: Digest
    bytes: Count
    tokens: Count
    sentences: Count
    paragraphs: Count
    documents: Count

    @property
    def size(self) -> Size:
        """How much is in it."""
        return Size(self.tokens, self.sentences, self.paragraphs, self.documents)


class SplitEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A split, as the manifest has it."""

    shards: list[ShardEntry]
    frequencies_sha256: Digest
    """Of the file with how often each entry stands in the split."""

    @property
    def digest(self) -> str:
        """Of all its shards."""
        return digest_of_shards(shard.sha256 for shard in self.shards)

    @property
    def tokens(self) -> int:
        """In all its shards."""
        return sum(shard.tokens for shard in self.shards)


class _VocabularyReport(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    entries: Count
    unknown_share: float
    tokens_a_word: float
    sample: list[str]


class _Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a report."""

    corpus: str
    sha256: dict[str, Digest]
    splits: dict[str, dict[str, Count]]
    left_out: dict[str, Count]
    vocabulary: _VocabularyReport


class _Version(msgspec.Struct):
    format: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a store is. It is written last: a folder with it is whole."""

    format: int
    key: str
    """Digest of the text and of all settings with which it was prepared."""
    id_type: Literal["uint16", "uint32"]
    vocab_size: Annotated[int, msgspec.Meta(ge=1, le=_LARGEST_VOCABULARY)]
    tokenizer_sha256: Digest
    """Of the two files of the tokenizer."""
    settings: dict[str, Any]
    """The fields of `PreparationConfig`."""
    report: dict[str, Any]
    """What corpus.json says: counts of what was read, kept and left out."""
    splits: dict[str, SplitEntry]
    manifest_sha256: str = ""
    """Of the manifest's own file, with these 64 characters taken out."""

    @staticmethod
    def read(folder: Path) -> Manifest:
        """That of the store in `folder`.

        Raises:
            DataError: there is none, it is not as it was written, or what it says cannot be.
        """
        path = folder / MANIFEST_FILE
        try:
            raw = read_small(path, MOST_MANIFEST_BYTES)
            version = msgspec.json.decode(raw, type=_Version).format
            if version != FORMAT:
                raise DamagedFileError(
                    f"{path} must be of format {FORMAT}; it is of {version}. Prepare the text "
                    "again with this version."
                )
            found = msgspec.json.decode(raw, type=Manifest)
            report = msgspec.convert(found.report, _Report)
        except OSError as error:
            is_damage = error.errno in LOST + NO_SMALL_FILE
            kind = DamagedFileError if is_damage else DataError
            raise kind(f"Cannot read {path}: {error.strerror}.") from error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DamagedFileError(
                f"{path} is not the manifest of a token store: {error}. Prepare the text again."
            ) from error
        if not _is_signed(raw, found.manifest_sha256):
            raise DamagedFileError(
                f"{path} is damaged or was edited: it does not match its own checksum. Put it "
                "back, or prepare the text again."
            )
        if wrong := next(found._contradictions(report), None):
            raise DamagedFileError(f"{path} is not the manifest of a token store: {wrong}.")
        return found

    def to_json(self) -> bytes:
        """As it is written, the same for the same store."""
        unsigned = msgspec.structs.replace(self, manifest_sha256="")
        raw = msgspec.json.format(msgspec.json.encode(unsigned, order="sorted"), indent=1) + b"\n"
        place = b'"manifest_sha256": "'
        before, _, after = raw.partition(b"\n " + place)
        return before + b"\n " + place + _sha256(raw).encode() + after

    def files(self, splits: Iterable[str] | None = None) -> dict[str, str]:
        """Digests of shards and frequencies, by the files' names inside the folder.

        Args:
            splits: of which; None: of all.
        """
        chosen = self.splits if splits is None else {name: self.splits[name] for name in splits}
        return dict(
            chain.from_iterable(
                [
                    *((shard.file, shard.sha256) for shard in split.shards),
                    (f"{name}/{FREQUENCIES_FILE}", split.frequencies_sha256),
                ]
                for name, split in chosen.items()
            )
        )

    def _contradictions(self, report: _Report) -> Iterator[str]:
        """What cannot be as it stands there, in words."""
        if not {"train"} <= set(self.splits) <= set(SPLITS):
            yield f"it must have the split train, and no others than {', '.join(SPLITS)}"
        for name, split in self.splits.items():
            for shard in split.shards:
                if not _is_shard_name(shard.file, name):
                    yield f"it names a shard {shard.file!r}, which is none of {name}"
            counts = report.splits.get(name, {})
            if missing := [key for key in _REPORTED if key not in counts]:
                yield f"its report must have the {missing[0]} of {name}"
            elif counts["tokens"] != split.tokens:
                yield f"its report must have the {split.tokens} tokens of {name}"
            if report.sha256.get(name) != split.digest:
                yield f"its report must have the checksum of {name}"
        if "tokenizer" not in report.sha256:
            yield "its report must have the checksum of the tokenizer"


def _is_shard_name(file: str, split: str) -> bool:
    folder, _, name = file.partition("/")
    number = name.removesuffix(".arrow").replace("-", "")
    return folder == split and name.endswith(".arrow") and number.isascii() and number.isdigit()


def _is_signed(raw: bytes, digest: str) -> bool:
    """Whether `digest` is that of `raw` without its characters; one that is not there is none."""
    return len(digest) == _DIGITS and _sha256(raw.replace(digest.encode(), b"")) == digest


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
