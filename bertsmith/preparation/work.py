"""What one process does with one part of a corpus: its documents into shards.

A part gives pieces, each of which is a shard a split and a line of counts. A piece whose counts are
written is finished, whatever happens to the process; the next one reads over it.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import numpy as np

from bertsmith.corpus import Document, Part
from bertsmith.data.disk import ShardEntry, sha256_of, write_shard
from bertsmith.data.store import ShardBuilder
from bertsmith.durable import flush, read_small
from bertsmith.tokenizer import Tokenizer

PIECE_BYTES = 3 * 2**25
"""Of text, in UTF-8; more than a part has, unless it is of a file that is read as a whole."""

_REPORT_BYTES = 2**20  # between two marks of progress
_MOST_PIECE_BYTES = 2**26  # of what is written down of one


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all parts of a preparation have in common. It can be sent to another process."""

    folder: Path
    """The store's."""
    work: Path
    """Where what is unfinished is kept, of this text and these settings alone."""
    tokenizer: Path
    """Folder of the tokenizer."""
    splits: tuple[str, ...]


class Piece(msgspec.Struct, kw_only=True):
    """A finished piece, as it is written down."""

    part: int
    number: int
    is_last: bool
    text_bytes: int
    shards: dict[str, ShardEntry]
    """By split; none for a split of which the piece has nothing."""
    counts: dict[str, dict[str, int]]
    """By split: of `ShardBuilder.finish`."""
    left_out: dict[str, int]
    warnings: list[str]


def work_on_part(job: Job, number: int, part: Part) -> list[Piece]:
    """Make the shards of part `number` that are not there yet; gives all of its pieces.

    Raises:
        BertsmithError: the text cannot be read.
        OSError: a shard cannot be written.
    """
    found: list[Piece] = []
    mark = _progress_mark(job, number)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        left_out: Counter[str] = Counter()
        documents = kept_documents(job, number, part, left_out)
        read = 0
        while True:
            path = _piece_path(job, number, len(found))
            done = _finished_piece(job, path)
            piece = (
                _skip(documents, done, mark, read)
                if done
                else _make(job, number, len(found), documents, left_out, caught, mark, read)
            )
            found.append(piece)
            read += piece.text_bytes
            left_out.clear()
            caught.clear()
            if piece.is_last:
                return found


def finished_pieces(job: Job, number: int) -> list[Piece] | None:
    """The pieces of part `number`, if it is finished."""
    found: list[Piece] = []
    while (piece := _finished_piece(job, _piece_path(job, number, len(found)))) is not None:
        found.append(piece)
        if piece.is_last:
            return found
    return None


def pieces_by_part(pieces: list[Piece]) -> list[list[Piece]]:
    """Pieces gathered by the part that they are of."""
    parts: dict[int, list[Piece]] = {}
    for piece in pieces:
        parts.setdefault(piece.part, []).append(piece)
    return list(parts.values())


def make_progress_marks(job: Job, num_parts: int) -> Path:
    """The file in which each process says how many bytes of each part it has done."""
    path = job.work / "progress.bin"
    path.write_bytes(b"\0" * 8 * max(num_parts, 1))
    return path


def dropped_file(job: Job, number: int) -> Path:
    """Where the duplicates of part `number` are listed, if duplicates are dropped."""
    return job.work / "dropped" / f"{number:06}.npy"


def text_bytes(document: Document) -> int:
    """A document's length in UTF-8."""
    return sum(
        len(sentence) if sentence.isascii() else len(sentence.encode())
        for paragraph in document
        for sentence in paragraph
    )


def _make(
    job: Job,
    part: int,
    number: int,
    documents: Iterator[tuple[str, Document]],
    left_out: Counter[str],
    caught: list[warnings.WarningMessage],
    mark: Callable[[int], None],
    read_before: int,
) -> Piece:
    tokenizer = _tokenizer(job.tokenizer, os.getpid())
    builders = {split: ShardBuilder(tokenizer) for split in job.splits}
    size = marked = 0
    is_last = True
    for split, document in documents:
        builders[split].add(document)
        size += text_bytes(document)
        if size - marked >= _REPORT_BYTES:
            mark(read_before + size)
            marked = size
        if size >= PIECE_BYTES:
            is_last = False
            break
    shards, counts = {}, {}
    for split, builder in builders.items():
        shard, counted = builder.finish()
        counts[split] = dict(counted)
        if shard.size.documents:
            path = job.folder / split / f"{part:06}-{number:03}.arrow"
            shards[split] = write_shard(shard, path)
    piece = Piece(
        part=part,
        number=number,
        is_last=is_last,
        text_bytes=size,
        shards=shards,
        counts=counts,
        left_out=dict(left_out),
        warnings=[str(one.message) for one in caught],
    )
    path = _piece_path(job, part, number)
    # Another process may have been left behind and write the same.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    unfinished.write_bytes(msgspec.json.encode(piece))
    flush(unfinished)
    os.replace(unfinished, path)
    mark(read_before + size)
    return piece


def _skip(
    documents: Iterator[tuple[str, Document]],
    done: Piece,
    mark: Callable[[int], None],
    read_before: int,
) -> Piece:
    """Read over a piece that is finished."""
    size = 0
    mark(read_before + done.text_bytes)
    if not done.is_last:
        for _, document in documents:
            size += text_bytes(document)
            if size >= PIECE_BYTES:
                break
    return done


def kept_documents(
    job: Job, number: int, part: Part, left_out: Counter[str]
) -> Iterator[tuple[str, Document]]:
    """The documents of a part but for duplicates."""
    path = dropped_file(job, number)
    if not path.is_file():
        yield from part.read(left_out)
        return
    dropped = iter(np.load(path, allow_pickle=False).tolist())
    following = next(dropped, None)
    for place, found in enumerate(part.read(left_out)):
        if place == following:
            left_out["duplicate documents"] += 1
            following = next(dropped, None)
        else:
            yield found


def _piece_path(job: Job, part: int, number: int) -> Path:
    return job.work / "pieces" / f"{part:06}-{number:03}.json"


def _finished_piece(job: Job, path: Path) -> Piece | None:
    """What is written down of a piece, if its shards are there as they were."""
    try:
        piece = msgspec.json.decode(read_small(path, _MOST_PIECE_BYTES), type=Piece)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    for shard in piece.shards.values():
        file = job.folder / shard.file
        if not file.is_file() or sha256_of(file) != shard.sha256:
            return None
    return piece


def _progress_mark(job: Job, number: int) -> Callable[[int], None]:
    path = job.work / "progress.bin"
    if not path.is_file():
        return lambda size: None
    marks = np.memmap(path, dtype=np.int64, mode="r+")

    def mark(size: int) -> None:
        marks[number] = size

    return mark


@cache
def _tokenizer(folder: Path, process: int) -> Tokenizer:
    """Loaded once a process."""
    return Tokenizer.load(folder, default_max_length=NO_LENGTH)


NO_LENGTH = 10**9
"""The longest sequence of a store's tokenizer: a store is made for any length."""
