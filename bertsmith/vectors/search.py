"""The rows of a file that are nearest to a question: exact, with vectors that are made once.

The vectors of a file lie in the cache, found again by what is in the file and in the model, as one
array that is mapped: what is in memory at once is a block of it, however many rows there are.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from filelock import FileLock
from numpy.lib.format import open_memmap

from bertsmith.config import LabelledConfig
from bertsmith.corpus.cache import cache_folder
from bertsmith.corpus.kinds import TABLE_FORMATS
from bertsmith.corpus.lines import read_lines
from bertsmith.corpus.opened import format_of
from bertsmith.display import Display
from bertsmith.durable import make_folder, whole_folder
from bertsmith.errors import DataError, InputError
from bertsmith.evaluation.ranking import best
from bertsmith.finetuning.tables import read_texts
from bertsmith.rows import with_length_1
from bertsmith.tokenizer.texts import refuse_no_text
from bertsmith.vectors.encoder import Float32, TextEncoder

_TEXTS_AT_ONCE = 2**14
_ROWS_AT_ONCE = 2**17  # of vectors that are held against the questions
_QUESTIONS_AT_ONCE = 64
_VECTORS_FILE = "vectors.npy"


class Hit(NamedTuple):
    """A row that is near."""

    line: int
    """Where it ends in the file, from 1; of a file without lines, its place."""
    cosine: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Documents:
    """The rows of a file."""

    path: Path
    texts: list[str]
    lines: list[int]

    @staticmethod
    def read(path: Path, labelled: LabelledConfig | None = None) -> Documents:
        """A row a document in tables, a line a document in other texts.

        Raises:
            CorpusError: it cannot be read, or has no text.
        """
        if format_of(path) in TABLE_FORMATS:
            table = read_texts(path, labelled or LabelledConfig())
            return Documents(path=path, texts=[a for a, _ in table.texts], lines=table.lines)
        rows = [(n, line.strip()) for n, line in enumerate(read_lines(path), 1) if line.strip()]
        if not rows:
            raise InputError(f"{path} must have text to search; it has none.")
        return Documents(path=path, texts=[t for _, t in rows], lines=[n for n, _ in rows])


def search(
    encoder: TextEncoder,
    documents: Documents,
    questions: Sequence[str],
    *,
    top_k: int = 10,
    display: Display | None = None,
) -> list[list[Hit]]:
    """The nearest rows to each question, by cosine, best first.

    Args:
        encoder: of both.
        documents: what is searched.
        questions: one list of hits is given for each.
        top_k: rows of each.
        display: shows what goes on; default: a silent one.

    Raises:
        InputError: a question is empty, or `top_k` is under 1.
        DataError: the vectors cannot be kept in the cache.
    """
    if top_k < 1:
        raise InputError(f"`top_k` must be at least 1; got {top_k}.")
    for question in questions:
        refuse_no_text(question)
    if not questions or not all(question.strip() for question in questions):
        raise InputError("A question must have a word; one is empty.")
    vectors = _vectors_of(encoder, documents, display or Display(quiet=True))
    asked = with_length_1(encoder.encode(list(questions)))
    found = []
    for first in range(0, len(asked), _QUESTIONS_AT_ONCE):
        some = asked[first : first + _QUESTIONS_AT_ONCE]
        numbers, cosines = _nearest(some, vectors, min(top_k, len(vectors)))
        for row, of_row in zip(numbers.tolist(), cosines.tolist(), strict=True):
            found.append(
                [
                    Hit(documents.lines[number], cosine, documents.texts[number])
                    for number, cosine in zip(row, of_row, strict=True)
                ]
            )
    return found


def _nearest(
    asked: Float32, vectors: Float32, depth: int
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.int64]], Float32]:
    """As `evaluation.ranking.nearest`, with a block of the vectors in memory at once."""
    numbers = np.empty((len(asked), 0), dtype=np.int64)
    scores = np.empty((len(asked), 0), dtype=np.float32)
    for first in range(0, len(vectors), _ROWS_AT_ONCE):
        block = asked @ vectors[first : first + _ROWS_AT_ONCE].T
        found, of_found = best(block, min(depth, block.shape[1]))
        numbers = np.concatenate([numbers, first + found], axis=1)
        scores = np.concatenate([scores, of_found], axis=1)
        kept, scores = best(scores, min(depth, scores.shape[1]))
        numbers = np.take_along_axis(numbers, kept, axis=1)
    return numbers, scores


def _vectors_of(encoder: TextEncoder, documents: Documents, display: Display) -> Float32:
    """Of length 1: float32 [D, H], mapped from the cache."""
    folder = cache_folder() / "vectors" / _key(encoder, documents)
    try:
        if (found := _kept(folder, len(documents.texts), encoder.size)) is not None:
            return found
        make_folder(folder.parent)
        with FileLock(folder.with_name(f"{folder.name}.lock")):  # another may make them, too
            kept = _kept(folder, len(documents.texts), encoder.size)
            if kept is None:
                with whole_folder(folder) as work:
                    _write(work / _VECTORS_FILE, encoder, documents, display)
                kept = _kept(folder, len(documents.texts), encoder.size)
    except OSError as error:
        raise DataError(
            f"The vectors of {documents.path} must be kept in {folder}: {error.strerror or error}. "
            "BERTSMITH_CACHE names another place."
        ) from error
    assert kept is not None
    return kept


def _write(path: Path, encoder: TextEncoder, documents: Documents, display: Display) -> None:
    shape = len(documents.texts), encoder.size
    array = open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    with display.stage("Encoding the documents") as progress:
        for first in range(0, shape[0], _TEXTS_AT_ONCE):
            some = documents.texts[first : first + _TEXTS_AT_ONCE]
            made = encoder.encode(some, source=str(documents.path))
            array[first : first + len(some)] = with_length_1(made)
            progress(min(first + _TEXTS_AT_ONCE, shape[0]), shape[0])
    array.flush()


def _kept(folder: Path, num_rows: int, size: int) -> Float32 | None:
    """The vectors that are there; None, and nothing is there any more, if they are not whole."""
    path = folder / _VECTORS_FILE
    if not path.is_file():
        return None
    try:
        found: Float32 = np.load(path, mmap_mode="r", allow_pickle=False)
        if found.shape == (num_rows, size) and found.dtype == np.float32:
            return found
    except (ValueError, EOFError):  # cut short
        pass
    shutil.rmtree(folder)
    return None


def _key(encoder: TextEncoder, documents: Documents) -> str:
    """A digest of all that decides the vectors."""
    found = hashlib.sha256()
    for name, value in encoder.model.state_dict().items():
        found.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    found.update(encoder.tokenizer.sha256().encode())
    how = {
        "format": 1,
        "shape": asdict(encoder.model.config),
        "pooling": asdict(encoder.pooling),
        "max_length": encoder.tokenizer.max_length,
        "precision": encoder.precision,
    }
    found.update(msgspec.json.encode(how))
    for text in documents.texts:
        raw = text.encode("utf-8", "surrogatepass")
        found.update(len(raw).to_bytes(8, "big") + raw)
    return found.hexdigest()[:32]
