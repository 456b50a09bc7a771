"""Documents that another one before them repeats, or nearly: found in bounded memory.

Every document leaves a digest of its text, and for near duplicates a MinHash signature (Broder
1997, by the `rensa` library), in a file a part. These are then brought together in slices of the
hashes' range, so that what is in memory at once does not grow with the corpus. Of equal texts, and
of those whose signatures agree in the set share, the first in the corpus's order is kept.
Candidates for near duplicates are documents that agree in a band of their signatures (Leskovec et
al., Mining of Massive Datasets, 3.4); each is held against the first and the last one before it in
its band.
"""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertsmith.corpus import Document, Part, digest, unwarned
from bertsmith.corpus.letters import words_of
from bertsmith.durable import read_with_sum, write_with_sum
from bertsmith.preparation.work import Job, dropped_file
from bertsmith.random_bits import Int64, UInt64, extend

_PERMUTATIONS = 128
_SEED = 42
_SHINGLE_WORDS = 5
_LONGEST_MEAN_WORD = 15  # characters; over it, words are not parted by spaces
_LEAST_RECALL = 0.9  # of pairs that are just as similar as they must be
_DOCUMENTS_AT_ONCE = 2**21  # of which digests are in memory
_PAIRS_AT_ONCE = 2**14  # of which signatures are


Signatures = npt.NDArray[np.uint32]


def fingerprint_part(job: Job, number: int, part: Part, similarity: float | None) -> int:
    """Write the digests (and signatures) of a part's documents; gives how many there are.

    Args:
        job, number, part: what to read.
        similarity: of near duplicates; None: only equal texts are looked for.
    """
    near = similarity is not None
    path = _prints(job, number)
    made = [path, *([_signatures(job, number), _keys(job, number)] if near else [])]
    if all(read_with_sum(file) is not None for file in made):
        return len(np.load(path, mmap_mode="r"))
    digests: list[bytes] = []
    signatures: list[list[int]] = []
    with unwarned():
        for _, document in part.read(Counter()):
            digests.append(digest(document))
            if near:
                signatures.append(_signature(document))
    if similarity is not None:
        rows = np.array(signatures, np.uint32).reshape(-1, _PERMUTATIONS)
        bands, width = bands_for(similarity)
        keys = [_key(rows[:, band * width : (band + 1) * width]) for band in range(bands)]
        _save(_signatures(job, number), rows)
        _save(_keys(job, number), np.stack(keys))
    prints = np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)
    _save(path, prints)  # last: it says that the part is done
    return len(prints)


def find_duplicates(job: Job, num_parts: int, similarity: float | None) -> None:
    """Write down which documents of each part are dropped.

    Args:
        job: whose parts are fingerprinted.
        num_parts: how many there are.
        similarity: share of a signature that near duplicates agree in; None: only equal texts.
    """
    prints = [np.load(_prints(job, number), mmap_mode="r") for number in range(num_parts)]
    starts = np.cumsum([0, *map(len, prints)])
    dropped = np.zeros(int(starts[-1]), dtype=bool)
    for numbers, rows in _slices(prints, starts):
        order = np.lexsort((rows[:, 1], rows[:, 0]))
        same = (rows[order][1:] == rows[order][:-1]).all(axis=1)
        dropped[numbers[order][1:][same]] = True
    if similarity is not None:
        _drop_near(job, starts, dropped, similarity)
    for number, (first, end) in enumerate(itertools.pairwise(starts.tolist())):
        _save(dropped_file(job, number), np.flatnonzero(dropped[first:end]))


def bands_for(similarity: float) -> tuple[int, int]:
    """Bands of a signature and rows of a band: the longest that find nine pairs in ten."""
    for rows in (16, 8, 4, 2, 1):
        bands = _PERMUTATIONS // rows
        if 1 - (1 - similarity**rows) ** bands >= _LEAST_RECALL:
            return bands, rows
    return _PERMUTATIONS, 1


def _drop_near(job: Job, starts: Int64, dropped: npt.NDArray[np.bool_], similarity: float) -> None:
    parts = range(len(starts) - 1)
    signatures = [np.load(_signatures(job, number), mmap_mode="r") for number in parts]
    keys = [np.load(_keys(job, number), mmap_mode="r") for number in parts]
    bands, _ = bands_for(similarity)
    for band in range(bands):
        for numbers, rows in _slices([key[band][:, None] for key in keys], starts):
            kept = ~dropped[numbers]  # what is dropped already need not be held against others
            numbers, key = numbers[kept], rows[kept, 0]
            order = np.argsort(key, kind="stable")
            numbers, key = numbers[order], key[order]
            later = np.flatnonzero(key[1:] == key[:-1]) + 1
            is_first = np.concatenate([[True], key[1:] != key[:-1]])
            first = np.maximum.accumulate(np.where(is_first, np.arange(len(key)), 0))
            for block in np.array_split(later, len(later) // _PAIRS_AT_ONCE + 1):
                mine = _rows(signatures, starts, numbers[block])
                for earlier in (first[block], block - 1):
                    other = _rows(signatures, starts, numbers[earlier])
                    alike = (mine == other).mean(axis=1) >= similarity
                    dropped[numbers[block[alike]]] = True


def _slices(parts: Sequence[UInt64], starts: Int64) -> Iterator[tuple[Int64, UInt64]]:
    """All rows with their numbers, such that rows of one hash come together, some at a time.

    Args:
        parts: uint64 [D, C] each; the first column is a hash.
        starts: the number of the first row of each part.
    """
    num_slices = 1
    while int(starts[-1]) / num_slices > _DOCUMENTS_AT_ONCE:
        num_slices *= 2
    shift = np.uint64(64 - num_slices.bit_length() + 1)
    for wanted in range(num_slices):
        numbers, rows = [], []
        for part, start in zip(parts, starts, strict=False):
            chosen = np.arange(len(part))
            if num_slices > 1:
                chosen = np.flatnonzero(part[:, 0] >> shift == np.uint64(wanted))
            numbers.append(chosen + start)
            rows.append(part[chosen])
        yield np.concatenate(numbers), np.concatenate(rows)


def _rows(parts: Sequence[Signatures], starts: Int64, numbers: Int64) -> Signatures:
    """The signatures of documents, by their numbers."""
    found = np.empty((len(numbers), _PERMUTATIONS), dtype=np.uint32)
    of = np.searchsorted(starts, numbers, side="right") - 1
    for part in np.unique(of).tolist():
        mine = of == part
        found[mine] = parts[part][numbers[mine] - starts[part]]
    return found


def _key(rows: Signatures) -> UInt64:
    """64 bits for each row: uint32 [D, R] → uint64 [D]."""
    bits = np.zeros(len(rows), dtype=np.uint64)
    for column in rows.T:
        bits = extend(bits, column)
    return bits


def _signature(document: Document) -> list[int]:
    import rensa

    text = " ".join(sentence for paragraph in document for sentence in paragraph).lower()
    words = words_of(text) or [text]
    if sum(map(len, words)) > _LONGEST_MEAN_WORD * len(words):
        words = list(text)
    count = max(1, len(words) - _SHINGLE_WORDS + 1)
    found = rensa.RMinHash(num_perm=_PERMUTATIONS, seed=_SEED)
    found.update([" ".join(words[first : first + _SHINGLE_WORDS]) for first in range(count)])
    signature: list[int] = found.digest()
    return signature


def _prints(job: Job, number: int) -> Path:
    return job.work / "prints" / f"{number:06}.npy"


def _signatures(job: Job, number: int) -> Path:
    return job.work / "prints" / f"{number:06}-signatures.npy"


def _keys(job: Job, number: int) -> Path:
    return job.work / "prints" / f"{number:06}-keys.npy"


def _save(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Write an array with its digest, which numpy does not see."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_with_sum(path, content.getvalue())
