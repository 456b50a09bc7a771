"""A token store as a folder: Arrow shards, and a manifest that says what they are.

The format is written down in docs/data-format.md. Shards are mapped, not read: what is in memory is
what training has touched, and the system may take it back.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bertsmith.config import MOST_MANIFEST_BYTES, STORE_MANIFEST_FILE
from bertsmith.data.random_bits import Int64
from bertsmith.data.store import Shard, Size, TokenStore, digest_of_shards
from bertsmith.durable import flush, read_small
from bertsmith.errors import DataError
from bertsmith.tokenizer import Tokenizer

MANIFEST_FILE = STORE_MANIFEST_FILE
TOKENIZER_FOLDER = "tokenizer"
FREQUENCIES_FILE = "frequencies.npy"
FORMAT = 1
SPLITS = ("train", "validation", "test")

_COLUMN, _NAMES = "document", "name"


class ShardEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A shard, as the manifest has it."""

    file: str
    """Inside the store's folder."""
    sha256: str
    bytes: int
    tokens: int
    sentences: int
    paragraphs: int
    documents: int

    @property
    def size(self) -> Size:
        """How much is in it."""
        return Size(self.tokens, self.sentences, self.paragraphs, self.documents)


class SplitEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A split, as the manifest has it."""

    shards: list[ShardEntry]
    frequencies_sha256: str
    """Of the file with how often each entry stands in the split."""

    @property
    def digest(self) -> str:
        """Of all its shards."""
        return digest_of_shards(shard.sha256 for shard in self.shards)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a store is. It is written last: a folder with it is whole."""

    format: int
    key: str
    """Digest of the text and of all settings with which it was prepared."""
    id_type: str
    """uint16 or uint32."""
    vocab_size: int
    tokenizer_sha256: str
    """Of the two files of the tokenizer."""
    settings: dict[str, Any]
    """The fields of `PreparationConfig`."""
    report: dict[str, Any]
    """What corpus.json says: counts of what was read, kept and left out."""
    splits: dict[str, SplitEntry]

    @staticmethod
    def read(folder: Path) -> Manifest:
        """That of the store in `folder`. Raises: `DataError`."""
        path = folder / MANIFEST_FILE
        try:
            found = msgspec.json.decode(read_small(path, MOST_MANIFEST_BYTES), type=Manifest)
        except OSError as error:
            raise DataError(f"Cannot read {path}: {error.strerror}.") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(f"{path} is not the manifest of a token store: {error}.") from error
        if found.format != FORMAT:
            raise DataError(f"{path} must be of format {FORMAT}; it is of {found.format}.")
        if not set(found.splits) <= set(SPLITS):
            raise DataError(f"{path} must have the splits {', '.join(SPLITS)}, and no others.")
        for split in found.splits.values():
            for shard in split.shards:
                _check_name(path, shard.file)
                if min(shard.bytes, *shard.size) < 0:
                    raise DataError(f"{path} is not the manifest of a token store: {shard.file}.")
        return found

    def to_json(self) -> bytes:
        """As it is written, the same for the same store."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1) + b"\n"


class StoreFolder(NamedTuple):
    """A store that is on disk."""

    path: Path
    manifest: Manifest

    def tokenizer(self, max_length: int) -> Tokenizer:
        """That of the store, for sequences of at most `max_length` tokens."""
        return Tokenizer.load(self.path / TOKENIZER_FOLDER, default_max_length=max_length)

    def split(self, name: str) -> TokenStore:
        """One of `manifest.splits`.

        Raises:
            DataError: a shard is missing or not as long as it was. When something in it is asked
                for, also: it is no such shard.
        """
        entry = self.manifest.splits[name]
        for shard in entry.shards:
            path = self.path / shard.file
            size = path.stat().st_size if path.is_file() else -1
            if size != shard.bytes:
                raise DataError(
                    f"{path} must have {shard.bytes} bytes; it "
                    f"{'is missing' if size < 0 else f'has {size}'}. Prepare the store again."
                )
        return TokenStore(
            [shard.size for shard in entry.shards],
            partial(_open_entry, self.path, self.manifest.id_type, entry.shards),
            digest=entry.digest,
            frequencies=self._frequencies(name),
        )

    def damage(self) -> list[str]:
        """The files that are not as the manifest says, every byte looked at."""
        wanted = {
            shard.file: shard.sha256
            for split in self.manifest.splits.values()
            for shard in split.shards
        }
        wanted |= {
            f"{name}/{FREQUENCIES_FILE}": split.frequencies_sha256
            for name, split in self.manifest.splits.items()
        }
        damaged = [
            name
            for name, digest in wanted.items()
            if not (self.path / name).is_file() or sha256_of(self.path / name) != digest
        ]
        if tokenizer_digest(self.path / TOKENIZER_FOLDER) != self.manifest.tokenizer_sha256:
            damaged.append(TOKENIZER_FOLDER)
        return damaged

    def is_complete(self) -> bool:
        """Whether all files are there, as long as they were; their content is not looked at."""
        try:
            for name in self.manifest.splits:
                self.split(name)
        except DataError:
            return False
        found = tokenizer_digest(self.path / TOKENIZER_FOLDER)
        return found == self.manifest.tokenizer_sha256

    def _frequencies(self, split: str) -> Int64:
        path = self.path / split / FREQUENCIES_FILE
        try:
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise ValueError("it is no regular file")
            found = np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} is damaged: {error}. Prepare the store again.") from error
        if found.shape != (self.manifest.vocab_size,) or found.dtype != np.int64:
            raise DataError(f"{path} must hold {self.manifest.vocab_size} counts of int64.")
        counts: Int64 = found
        return counts


def is_store(path: Path) -> bool:
    """Whether `path` is the folder of a token store."""
    return (path / MANIFEST_FILE).is_file()


def open_store(path: Path) -> StoreFolder:
    """The store in a folder. Raises: `DataError`."""
    return StoreFolder(path, Manifest.read(path))


def write_shard(shard: Shard, path: Path) -> ShardEntry:
    """Write a shard as an Arrow file; it is on the disk when this returns.

    One record batch with a row a document: `document`, a list of paragraphs, which are lists of
    sentences, which are lists of ids; and `name`, if documents have names. The lists of Arrow are
    flat values and offsets, so that nothing is converted.

    Raises:
        OSError: it cannot be written.
    """
    values = _array(shard.ids)
    for offsets in (shard.sentence_offsets, shard.paragraph_offsets, shard.document_offsets):
        values = pa.ListArray.from_arrays(_array(offsets), values)
    columns = {_COLUMN: values}
    if shard.names is not None:
        columns[_NAMES] = pa.array(shard.names, pa.string())
    batch = pa.record_batch(columns)
    # Another process may have been left behind and write the same.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    flush(part)
    os.replace(part, path)
    flush(path.parent)
    return ShardEntry(
        file=f"{path.parent.name}/{path.name}",
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        **shard.size._asdict(),
    )


def open_shard(path: Path, id_type: str, size: Size) -> Shard:
    """Map a shard.

    Args:
        path: of `write_shard`.
        id_type: uint16 or uint32.
        size: what must be in it.

    Raises:
        DataError: it is not such a file, or does not hold that much.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.num_record_batches != 1:
            raise DataError(f"{path} must have one record batch; it has another number.")
        batch = reader.get_batch(0)
        documents = batch.column(_COLUMN)
        paragraphs = documents.values
        sentences = paragraphs.values
        ids = sentences.values
        if str(ids.type) != id_type or sum(a.null_count for a in (documents, ids)):
            raise DataError(f"{path} must hold ids of {id_type}; it holds {ids.type}.")
        shard = Shard(
            ids=_values(ids),
            sentence_offsets=_values(sentences.offsets),
            paragraph_offsets=_values(paragraphs.offsets),
            document_offsets=_values(documents.offsets),
            names=batch.column(_NAMES) if _NAMES in batch.schema.names else None,
        )
    except (
        pa.ArrowException,
        OSError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise DataError(f"{path} is damaged: {error}. Prepare the store again.") from error
    ends = (shard.sentence_offsets, shard.paragraph_offsets, shard.document_offsets)
    if shard.size != size or [int(array[-1]) for array in ends] != [
        size.tokens,
        size.sentences,
        size.paragraphs,
    ]:
        raise DataError(f"{path} must hold {size}; it holds {shard.size}. Prepare it again.")
    return shard


def write_frequencies(counts: Int64, path: Path) -> str:
    """Write how often each entry stands in a split; gives the file's digest. Raises: `OSError`."""
    np.save(path, counts, allow_pickle=False)
    flush(path)
    return sha256_of(path)


def tokenizer_digest(folder: Path) -> str:
    """Of both files of a tokenizer; empty if one is missing."""
    files = [folder / name for name in ("tokenizer.json", "tokenizer_config.json")]
    if not all(file.is_file() for file in files):
        return ""
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """The digest of a file. Raises: `OSError`."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def total_counts(parts: Sequence[dict[str, int]]) -> Counter[str]:
    """Counts of several pieces, added up; those of zero stay."""
    total: Counter[str] = Counter()
    for part in parts:
        for name, count in part.items():
            total[name] += count
    return total


def _open_entry(folder: Path, id_type: str, entries: Sequence[ShardEntry], number: int) -> Shard:
    entry = entries[number]
    return open_shard(folder / entry.file, id_type, entry.size)


def _array(values: npt.NDArray[np.generic]) -> Any:
    """Numpy's memory as Arrow sees it, not copied; its own way there imports pandas."""
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _values(array: Any) -> Any:
    """Arrow's memory as numpy sees it, not copied."""
    values = np.frombuffer(array.buffers()[1], dtype=array.type.to_pandas_dtype())
    return values[array.offset : array.offset + len(array)]


def _check_name(path: Path, name: str) -> None:
    folder, _, file = name.partition("/")
    if not (folder.isidentifier() and file.replace("-", "").removesuffix(".arrow").isdigit()):
        raise DataError(f"{path} names a shard {name!r}, which is none.")
