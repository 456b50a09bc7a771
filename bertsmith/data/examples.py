"""Where the examples of a store begin and end: a table that gives any of them by its number.

Adjacent pairs are found by their first sentence, filled pairs by a run of sentences, segments by a
run of tokens. The table of a small store is in memory; that of a large one is made once, kept in
the cache and mapped, so that training on it starts at once and takes no memory for it.

Legend: E = examples of a shard; S = sentences; D = documents.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from bertsmith.corpus.cache import cache_folder
from bertsmith.data.store import Shard, TokenStore
from bertsmith.durable import damage, make_folder, whole_folder
from bertsmith.errors import DataError
from bertsmith.random_bits import Int64

Kind = Literal["adjacent", "filled", "segments"]

NUM_SPECIAL = {"adjacent": 3, "filled": 3, "segments": 2}
"""Tokens of each example that are not text: [CLS] A [SEP] B [SEP], or [CLS] A [SEP]."""

_MOST_IN_MEMORY = 2**22  # sentences of a store whose table is not kept on disk
_FEW_DOCUMENTS = 64  # under so many at once, a plain loop is quicker than numpy
_FORMAT = 1


@dataclass(frozen=True)
class Examples:
    """The table, and what it tells of the text."""

    rows: npt.NDArray[np.integer]
    """[number of examples, 1 or 2]: first (and end) sentence of pairs, first and end token of
    segments."""
    counts: Counter[str]
    """`adjacent_pairs_over_max_length` (they are cut), `documents_over_max_length` (they are
    split)."""

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """A table that is mapped goes to another process by the name of its file."""
        if isinstance(self.rows, np.memmap):
            return _mapped, (self.rows.filename, self.rows.dtype, self.rows.shape[1], self.counts)
        return Examples, (self.rows, self.counts)

    def columns(self, numbers: Int64) -> list[Int64]:
        """The columns of the examples `numbers`, int64 each."""
        return list(self.rows[numbers].astype(np.int64).T)


def lay_out(
    store: TokenStore,
    kind: Kind,
    max_length: int,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Examples:
    """The examples of `store`.

    Args:
        store: a split.
        kind: adjacent or filled pairs, or segments.
        max_length: of an example in tokens, special ones counted; not for adjacent pairs, which are
            cut when they are read.
        progress: told shards done and in all.

    Raises:
        DataError: the table cannot be kept in the cache.
    """
    room = max_length - NUM_SPECIAL[kind]
    if store.num_sentences <= _MOST_IN_MEMORY:
        counts: Counter[str] = Counter()
        tables = list(_tables(store, kind, room, counts, progress))
        empty = np.zeros((0, 1 if kind == "adjacent" else 2), dtype=np.int64)
        return Examples(np.concatenate([empty, *tables]), counts)
    name = f"{store.sha256()[:32]}-{store.num_tokens}-{kind}-{max_length}-{_FORMAT}"
    folder = cache_folder() / "examples" / name
    try:
        if (found := _kept(folder, store, kind)) is None:
            make_folder(folder.parent)
            with FileLock(folder.with_name(f"{name}.lock")):  # another run may make it, too
                if (found := _kept(folder, store, kind)) is None:
                    with whole_folder(folder) as work:
                        _write(work, store, kind, room, progress)
                    found = _read(folder, store, kind)
        return found
    except OSError as error:
        raise DataError(
            f"The table of examples must be kept in {folder}: {error.strerror or error}. "
            "BERTSMITH_CACHE names another place."
        ) from error


def _kept(folder: Path, store: TokenStore, kind: Kind) -> Examples | None:
    """The table that is kept in `folder`, if every byte of it is as it was written."""
    if not os.path.lexists(folder):
        return None
    try:
        wrong = damage(folder) if folder.is_dir() else "it is no folder"
        if wrong is None:
            return _read(folder, store, kind)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        wrong = str(error)
    warnings.warn(
        f"The table of examples {folder} is damaged ({wrong}): making it anew.", stacklevel=2
    )
    return None


def _write(
    folder: Path,
    store: TokenStore,
    kind: Kind,
    room: int,
    progress: Callable[[int, int], None],
) -> None:
    counts: Counter[str] = Counter()
    numbers = store.num_tokens if kind == "segments" else store.num_sentences
    dtype = np.dtype(np.uint32 if numbers < 2**32 else np.int64)
    with (folder / "rows.bin").open("wb") as stream:
        for table in _tables(store, kind, room, counts, progress):
            stream.write(table.astype(dtype).tobytes())
    about = {"dtype": dtype.str, "counts": counts}
    (folder / "about.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


def _read(folder: Path, store: TokenStore, kind: Kind) -> Examples:
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    width = 1 if kind == "adjacent" else 2
    dtype = np.dtype(about["dtype"])
    found = _mapped(folder / "rows.bin", dtype, width, Counter(about["counts"]))
    most = store.num_tokens if kind == "segments" else store.num_sentences
    if len(found) and not 0 <= int(found.rows.min()) <= int(found.rows.max()) <= most:
        raise ValueError("it has examples beyond the text")
    return found


def _mapped(path: Path, dtype: np.dtype[np.integer], width: int, counts: Counter[str]) -> Examples:
    is_empty = path.stat().st_size == 0  # of which there is no map
    flat = np.zeros(0, dtype) if is_empty else np.memmap(path, dtype, mode="r")
    return Examples(flat.reshape(-1, width), counts)


def _tables(
    store: TokenStore,
    kind: Kind,
    room: int,
    counts: Counter[str],
    progress: Callable[[int, int], None],
) -> Iterator[Int64]:
    """The rows of each shard, by the numbers of the whole store."""
    for number, (shard, first_sentence, first_token) in enumerate(store.shards(), start=1):
        if kind == "adjacent":
            yield _adjacent(shard, room, counts) + first_sentence
        elif kind == "filled":
            yield _chunks(shard, room) + first_sentence
        else:
            yield _segments(shard, room, counts) + first_token
        progress(number, store.num_shards)


def _adjacent(shard: Shard, room: int, counts: Counter[str]) -> Int64:
    """Sentences that another one of their paragraph follows: int64 [E, 1]."""
    is_last = np.zeros(shard.size.sentences, dtype=bool)
    is_last[shard.paragraph_offsets[1:] - 1] = True
    firsts = np.flatnonzero(~is_last)
    together = shard.sentence_offsets[firsts + 2] - shard.sentence_offsets[firsts]
    counts["adjacent_pairs_over_max_length"] += int(np.count_nonzero(together > room))
    return firsts[:, None]


def _chunks(shard: Shard, room: int) -> Int64:
    """Runs of sentences of a document: two, and more while they fit; int64 [E, 2].

    A run begins where the one before ends; the last one of a document reaches back for a second
    sentence. All documents take their next run at once, since most of them have few.
    """
    offsets = shard.sentence_offsets

    def run_end(starts: Int64) -> Int64:
        """Where a run ends that begins at each of these sentences, were the document endless."""
        limits = np.minimum(offsets[starts].astype(np.int64) + room, offsets[-1])
        fitting = np.searchsorted(offsets, limits.astype(offsets.dtype), side="right") - 1
        return np.maximum(fitting, starts + 2)

    bounds = shard.document_starts().astype(np.int64)
    long_enough = np.diff(bounds) >= 2
    sentence, stop = bounds[:-1][long_enough], bounds[1:][long_enough]
    tables = [np.zeros((0, 2), dtype=np.int64)]
    while len(sentence) > _FEW_DOCUMENTS:
        start = np.minimum(sentence, stop - 2)
        end = np.minimum(run_end(start), stop)
        tables.append(np.stack([start, end], axis=1))
        goes_on = end < stop
        sentence, stop = end[goes_on], stop[goes_on]
    rest: list[tuple[int, int]] = []
    for first, last in zip(sentence.tolist(), stop.tolist(), strict=True):
        base = min(first, last - 2)  # the last run reaches back
        ends = run_end(np.arange(base, last)).tolist()
        place = first
        while place < last:
            place = min(place, last - 2)
            rest.append((place, min(ends[place - base], last)))
            place = rest[-1][1]
    rows = np.concatenate([*tables, np.array(rest, dtype=np.int64).reshape(-1, 2)])
    return rows[np.argsort(rows[:, 0], kind="stable")]


def _segments(shard: Shard, room: int, counts: Counter[str]) -> Int64:
    """Every document in as few runs of tokens as fit, of about one length; int64 [E, 2]."""
    bounds = shard.sentence_offsets[shard.document_starts()].astype(np.int64)
    lengths = np.diff(bounds)
    parts = -(-lengths // room)
    counts["documents_over_max_length"] += int(np.count_nonzero(parts > 1))
    of = np.repeat(np.arange(len(lengths)), parts)
    number = np.arange(len(of)) - np.repeat(np.cumsum(parts) - parts, parts)
    first = bounds[of] + lengths[of] * number // parts[of]
    end = bounds[of] + lengths[of] * (number + 1) // parts[of]
    return np.stack([first, end], axis=1)
