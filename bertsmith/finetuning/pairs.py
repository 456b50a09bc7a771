"""Texts that belong together as batches: rows of a table, or neighbouring sentences of a corpus.

Legend: R = rows; N = texts of a row; P = rows of a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bertsmith.data.examples import lay_out
from bertsmith.data.store import TokenStore
from bertsmith.errors import DataError
from bertsmith.finetuning.batches import Drawn
from bertsmith.random_bits import Int64
from bertsmith.rows import Row
from bertsmith.tokenizer import Tokenizer

_NUM_SPECIAL = 2  # [CLS] and [SEP]
_PRIME = 2**61 - 1


class TextRows(Protocol):
    """Rows of texts, of which the first two belong together."""

    @property
    def num_texts(self) -> int:
        """N."""
        ...

    @property
    def scores(self) -> npt.NDArray[np.float32] | None:
        """float32 [R]; how near the texts of each row are; None: they belong together."""
        ...

    def __len__(self) -> int: ...

    def texts(self, numbers: Int64) -> list[list[Row]]:
        """The texts of some rows: N lists of P."""
        ...

    def digest(self) -> str:
        """Of all of it."""
        ...


@dataclass(frozen=True, kw_only=True)
class TableRows:
    """Those of a table, in memory.

    Args:
        columns: N lists of R texts.
        scores: see `TextRows`.
    """

    columns: Sequence[Sequence[Row]]
    scores: npt.NDArray[np.float32] | None = None

    @property
    def num_texts(self) -> int:
        """N."""
        return len(self.columns)

    def __len__(self) -> int:
        return len(self.columns[0])

    def texts(self, numbers: Int64) -> list[list[Row]]:
        """See `TextRows`."""
        return [[column[number] for number in numbers.tolist()] for column in self.columns]

    def digest(self) -> str:
        """See `TextRows`."""
        found = hashlib.sha256()
        for column in self.columns:
            for row in column:
                found.update(np.array([len(row.ids), *row.ids], dtype=np.int64).tobytes())
        found.update(b"" if self.scores is None else self.scores.tobytes())
        return found.hexdigest()


class Neighbours:
    """Neighbouring sentences of the paragraphs of a store, read when they are asked for.

    Args:
        store: a split.
        tokenizer: that of its text, with the longest length of a text.

    Raises:
        DataError: no paragraph has two sentences.
    """

    num_texts = 2
    scores: npt.NDArray[np.float32] | None = None

    def __init__(self, store: TokenStore, tokenizer: Tokenizer) -> None:
        self._store, self._tokenizer = store, tokenizer
        self._examples = lay_out(store, "adjacent", tokenizer.max_length)
        if not len(self._examples):
            raise DataError(
                "The corpus must have paragraphs of two sentences or more to learn from "
                "neighbouring ones; it has none. Name a table of pairs with --train."
            )

    def __len__(self) -> int:
        return len(self._examples)

    def texts(self, numbers: Int64) -> list[list[Row]]:
        """See `TextRows`."""
        (first,) = self._examples.columns(numbers)
        return [self._sentences(first), self._sentences(first + 1)]

    def _sentences(self, numbers: Int64) -> list[Row]:
        starts, tokenizer = self._store.start(numbers), self._tokenizer
        most = tokenizer.max_length - _NUM_SPECIAL
        lengths = np.minimum(self._store.start(numbers + 1) - starts, most)
        tokens = self._store.tokens(starts, lengths)
        return [
            Row([tokenizer.cls_id, *ids.tolist(), tokenizer.sep_id], [0] * (len(ids) + 2))
            for ids in np.split(tokens, np.cumsum(lengths)[:-1])
        ]

    def digest(self) -> str:
        """See `TextRows`."""
        return f"{self._store.sha256()}-{self._tokenizer.max_length}"


def number_of(row: Row) -> int:
    """A number that equal texts share, and others do not."""
    digest = hashlib.sha256(np.array(row.ids, dtype=np.int64).tobytes()).digest()
    return int.from_bytes(digest[:8], "big") % _PRIME


def drawn(rows: TextRows, numbers: Int64) -> Drawn:
    """The texts of some rows, with the labels of `bertsmith.objectives.contrast`."""
    texts = [row for column in rows.texts(numbers) for row in column]
    places = np.arange(len(texts))
    if rows.scores is None:
        return Drawn(texts, np.stack([places, [number_of(row) for row in texts]], axis=1))
    scores = np.tile(rows.scores[numbers], rows.num_texts)
    return Drawn(texts, np.stack([places.astype(np.float32), scores], axis=1))
