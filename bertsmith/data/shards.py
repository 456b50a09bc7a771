"""The files of a token store, shards and counts: written whole, checked when they are read.

A shard is one record batch with a row a document: `document`, a list of paragraphs, which are lists
of sentences, which are lists of ids. The lists of Arrow are flat values and offsets, so that
nothing is converted.
"""

from __future__ import annotations

import hashlib
import io
import stat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bertsmith.data.manifest import DamagedFileError, ShardEntry
from bertsmith.data.store import Shard, Size
from bertsmith.durable import LOST, flush, sha256_of, whole_file
from bertsmith.errors import DataError
from bertsmith.random_bits import Int64
from bertsmith.tokenizer import TOKENIZER_FILES

_COLUMN = "document"
_LARGEST_TOKENIZER = 2**28  # bytes, as in bertsmith.tokenizer


class Stamp(NamedTuple):
    """By which a change of a file is suspected without reading it."""

    size: int
    modified: int
    """Nanoseconds, by the file system's clock."""
    inode: int

    @staticmethod
    def of(path: Path) -> Stamp:
        """That of a regular file. Raises: `DataError`."""
        try:
            found = path.stat()
        except OSError as error:
            if error.errno in LOST:
                raise DamagedFileError(f"{path} is missing") from error
            raise DataError(f"Cannot read {path}: {error.strerror}.") from error
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            raise DamagedFileError(f"{path} is not a regular file")
        return Stamp(found.st_size, found.st_mtime_ns, found.st_ino)


def write_shard(shard: Shard, path: Path) -> ShardEntry:
    """Write a shard as an Arrow file; it is on the disk when this returns.

    Raises:
        OSError: it cannot be written.
    """
    values = _array(shard.ids)
    for offsets in (shard.sentence_offsets, shard.paragraph_offsets, shard.document_offsets):
        values = pa.ListArray.from_arrays(_array(offsets), values)
    batch = pa.record_batch({_COLUMN: values})
    with (
        whole_file(path, has_other_writers=True) as part,
        pa.OSFile(str(part), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)
    return ShardEntry(
        file=f"{path.parent.name}/{path.name}",
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        **shard.size._asdict(),
    )


def open_shard(path: Path, id_type: str, size: Size, *, vocab_size: int | None = None) -> Shard:
    """Map a shard.

    Args:
        path: of `write_shard`.
        id_type: uint16 or uint32.
        size: what must be in it.
        vocab_size: look at all of it: ids must be under this, and offsets rise; None: do not.

    Raises:
        DamagedFileError: it is not such a file, or does not hold that much.
    """
    Stamp.of(path)
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.num_record_batches != 1:
            raise DamagedFileError(f"{path} must have one record batch; it has another number")
        batch = reader.get_batch(0)
        batch.validate(full=vocab_size is not None)
        lists = [batch.column(_COLUMN)]
        while len(lists) < 3 and pa.types.is_list(lists[-1].type):
            lists.append(lists[-1].values)
        documents, paragraphs, sentences = lists
        ids = sentences.values
        if str(ids.type) != id_type or any(array.null_count for array in (*lists, ids)):
            raise DamagedFileError(f"{path} must hold ids of {id_type}; it holds {ids.type}")
        shard = Shard(
            ids=_values(ids),
            sentence_offsets=_values(sentences.offsets),
            paragraph_offsets=_values(paragraphs.offsets),
            document_offsets=_values(documents.offsets),
        )
    except (pa.ArrowException, OSError, AttributeError, LookupError, TypeError) as error:
        raise DamagedFileError(f"{path} is no shard of a token store: {error}") from error
    except (ValueError, ArithmeticError, MemoryError) as error:
        raise DamagedFileError(f"{path} is no shard of a token store: {error}") from error
    _check_content(path, shard, size, vocab_size)
    return shard


def _check_content(path: Path, shard: Shard, size: Size, vocab_size: int | None) -> None:
    if shard.size != size:
        raise DamagedFileError(f"{path} must hold {size}; it holds {shard.size}")
    parts = {
        "sentence": (shard.sentence_offsets, size.tokens),
        "paragraph": (shard.paragraph_offsets, size.sentences),
        "document": (shard.document_offsets, size.paragraphs),
    }
    for name, (offsets, end) in parts.items():
        if offsets[0] != 0 or offsets[-1] != end:
            raise DamagedFileError(f"{path} must hold {end} in all of its {name}s; it does not")
        if vocab_size is not None and not (offsets[1:] > offsets[:-1]).all():
            raise DamagedFileError(f"{path} has a {name} that ends before it begins, or is empty")
    if vocab_size is not None and size.tokens and int(shard.ids.max()) >= vocab_size:
        raise DamagedFileError(f"{path} has ids that its tokenizer has not")


def write_frequencies(counts: Int64, path: Path) -> str:
    """Write how often each entry stands in a split; gives the file's digest. Raises: `OSError`."""
    np.save(path, counts, allow_pickle=False)
    flush(path)
    return sha256_of(path)


def read_frequencies(path: Path, digest: str, vocab_size: int, tokens: int) -> Int64:
    """The counts of `write_frequencies`, int64 [vocab_size].

    Args:
        path, digest: the file, and its digest.
        vocab_size, tokens: how many counts there are, and what they add up to.

    Raises:
        DataError: it is another file, or such counts cannot be.
    """
    header = io.BytesIO()
    about = {"descr": "<i8", "fortran_order": False, "shape": (vocab_size,)}
    np.lib.format.write_array_header_1_0(header, about)
    expected = len(header.getvalue()) + 8 * vocab_size
    if Stamp.of(path).size != expected:
        raise DamagedFileError(f"{path} must have {expected} bytes; it has {Stamp.of(path).size}")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error
    if hashlib.sha256(raw).hexdigest() != digest:
        raise DamagedFileError(f"{path} does not match its checksum")
    if not raw.startswith(header.getvalue()):
        raise DamagedFileError(f"{path} must hold {vocab_size} counts of int64")
    counts = np.frombuffer(raw[-8 * vocab_size :], dtype="<i8").astype(np.int64)
    if counts.min() < 0 or counts.sum() != tokens:
        raise DamagedFileError(f"{path} must hold counts that add up to {tokens}; it does not")
    return counts


def tokenizer_digest(folder: Path) -> str:
    """Of both files of a tokenizer. Raises: `DataError`: one is missing, or cannot be read."""
    for path in (folder / name for name in TOKENIZER_FILES):
        if Stamp.of(path).size > _LARGEST_TOKENIZER:
            raise DamagedFileError(f"{path} must have at most {_LARGEST_TOKENIZER} bytes")
    digests = (checked_digest(folder / name) for name in TOKENIZER_FILES)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def checked_digest(path: Path) -> str:
    """The digest of a regular file. Raises: `DataError`."""
    Stamp.of(path)
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error


def _array(values: npt.NDArray[np.generic]) -> Any:
    """Numpy's memory as Arrow sees it, not copied; its own way there imports pandas."""
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _values(array: Any) -> Any:
    """Arrow's memory as numpy sees it, not copied."""
    values = np.frombuffer(array.buffers()[1], dtype=array.type.to_pandas_dtype())
    return values[array.offset : array.offset + len(array)]
