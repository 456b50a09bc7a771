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

from bertsmith.batch import Batch
from bertsmith.data.deal import deal
from bertsmith.data.examples import lay_out
from bertsmith.data.store import TokenStore
from bertsmith.errors import DataError
from bertsmith.random_bits import Int64, permute
from bertsmith.rows import Row, packed
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


class TextBatches:
    """All batches of a training: `batch(number)` is a pure function of the rows and the seed.

    Labels are those of `bertsmith.objectives.contrast`: int64 [B, 2], or with scores float32.

    Args:
        rows: R of them.
        batch_size: P, at most R.
        seed: the order follows from it; each epoch has its own.
        rank, num_ranks: whose part of each batch is made, and of how many.
    """

    def __init__(
        self, rows: TextRows, *, batch_size: int, seed: int, rank: int = 0, num_ranks: int = 1
    ) -> None:
        self.num_examples = len(rows)
        self._rows, self._batch_size, self._seed = rows, batch_size, seed
        self._rank, self._num_ranks = rank, num_ranks

    def batch(self, number: int) -> Batch:
        """The batch of a number, from 0; longest text first. Of several ranks the part of this."""
        places = number * self._batch_size + np.arange(self._batch_size, dtype=np.int64)
        epoch, place = np.divmod(places, self.num_examples)
        chosen = permute(place, self.num_examples, self._seed, epoch)
        texts = [row for column in self._rows.texts(chosen) for row in column]
        labels = self._labels(texts, chosen)
        lengths = np.array([len(row.ids) for row in texts])
        order = np.argsort(-lengths, kind="stable")
        starts = np.zeros(len(order), dtype=np.int64)
        starts[order] = np.cumsum(lengths[order]) - lengths[order]
        if self._num_ranks > 1:
            order = order[deal(lengths[order].tolist(), self._num_ranks) == self._rank]
        return packed([texts[i] for i in order], labels[order], starts[order].tolist())

    def _labels(
        self, texts: Sequence[Row], chosen: Int64
    ) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
        places = np.arange(len(texts))
        if self._rows.scores is None:
            return np.stack([places, [number_of(row) for row in texts]], axis=1)
        scores = np.tile(self._rows.scores[chosen], self._rows.num_texts)
        return np.stack([places.astype(np.float32), scores], axis=1)
