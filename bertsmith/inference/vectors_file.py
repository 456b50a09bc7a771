"""Vectors of many texts as a file: arrays of NumPy, or a table of comma-separated values.

.npz   `vectors` [N, H]; of tokens [sum of lengths, H], with `offsets` [N + 1], where texts begin
.npy   `vectors` [N, H] alone
.csv   a row a vector: `text` (from 0), of tokens `token`, then the dimensions `0`, `1`, …
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bertsmith.durable import whole_file
from bertsmith.errors import InputError
from bertsmith.inference.model import Encoding

ENDINGS = (".npz", ".npy", ".csv")


class Written(NamedTuple):
    """What a file of vectors holds."""

    num_texts: int
    num_cut: int
    """Texts that were longer than the model takes."""
    shape: tuple[int, int]
    """Of all vectors."""


def refuse_output(target: Path, pooling: str) -> None:
    """Raise `InputError` if vectors cannot be written to `target`, before any are made."""
    ending = target.suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"--output must end in {', '.join(ENDINGS)}; got {target}.")
    if ending == ".npy" and pooling == "tokens":
        raise InputError(
            "A .npy file has one array, and vectors of tokens need to say where texts begin; "
            "name a .npz or .csv file, or choose --pooling cls or mean."
        )
    if not target.parent.is_dir():
        raise InputError(f"The folder of --output must exist; {target.parent} does not.")
    if target.is_dir():
        raise InputError(f"--output must be a file; {target} is a folder.")


def write_vectors(target: Path, encodings: Iterable[Encoding], pooling: str) -> Written:
    """Write the vectors of texts; the file is whole, or as it was before.

    Args:
        target: as `refuse_output` lets pass; its ending says what is written.
        encodings: of the texts, in their order; a table is written as they come.
        pooling: tokens, cls or mean.

    Raises:
        InputError: it cannot be written.
    """
    write = _write_table if target.suffix.lower() == ".csv" else _write_arrays
    try:
        with whole_file(target, flushed=False) as part:
            return write(part, encodings, pooling, target.suffix.lower())
    except OSError as error:
        raise InputError(f"Cannot write {target}: {error.strerror or error}.") from error


def _write_table(part: Path, encodings: Iterable[Encoding], pooling: str, ending: str) -> Written:
    num_texts = num_cut = num_rows = size = 0
    has_tokens = pooling == "tokens"
    with part.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        for number, one in enumerate(encodings):
            vectors = np.atleast_2d(one.pooled(pooling))
            if not number:
                size = vectors.shape[1]
                writer.writerow(["text", *(["token"] if has_tokens else []), *range(size)])
            names = [[token] for token in one.token_texts] if has_tokens else [[]]
            for name, vector in zip(names, vectors, strict=True):
                writer.writerow([number, *name, *map(str, vector)])  # exact, as short as can be
            num_texts, num_rows = num_texts + 1, num_rows + len(vectors)
            num_cut += one.num_cut_tokens > 0
    return Written(num_texts, num_cut, (num_rows, size))


def _write_arrays(part: Path, encodings: Iterable[Encoding], pooling: str, ending: str) -> Written:
    rows, num_cut = [], 0
    with part.open("wb") as stream:
        for one in encodings:
            rows.append(one.pooled(pooling).copy())  # lets go of the other vectors
            num_cut += one.num_cut_tokens > 0
        if ending == ".npy":
            vectors = np.stack(rows)
            np.save(stream, vectors)
        elif pooling == "tokens":
            vectors = np.concatenate(rows)
            np.savez(stream, vectors=vectors, offsets=np.cumsum([0, *map(len, rows)]))
        else:
            vectors = np.stack(rows)
            np.savez(stream, vectors=vectors)
    return Written(len(rows), num_cut, (len(vectors), vectors.shape[1]))
