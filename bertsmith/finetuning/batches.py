"""Rows as batches of a fine-tuning: step number in, tensors out.

Legend: N = rows; P = rows of a batch; B = sequences of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bertsmith.batch import Batch
from bertsmith.data.deal import deal
from bertsmith.random_bits import Int64, permute
from bertsmith.ranks import ALONE, Ranks
from bertsmith.rows import Labels, Row, packed


class Drawn(NamedTuple):
    """The sequences of some rows."""

    sequences: Sequence[Row]
    """B: one of each row, or several."""
    labels: Labels | None = None
    """[B] or [B, n], as the objective reads them."""
    tags: Sequence[Sequence[int]] | None = None
    """Of each sequence the classes of its tokens; -1: none."""


class RowBatches:
    """All batches of a training: `batch(number)` is a pure function of the rows and the seed.

    Each epoch has its own order; a batch may reach from one epoch into the next, as in pretraining.

    Args:
        num_rows: N.
        draw: gives the sequences of rows, by their numbers: int64 [P].
        batch_size: P; at most N.
        seed: the order follows from it.
        ranks: who trains; each makes its part of a batch.
    """

    def __init__(
        self,
        num_rows: int,
        draw: Callable[[Int64], Drawn],
        *,
        batch_size: int,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.num_examples = num_rows
        self._draw, self._batch_size, self._seed, self._ranks = draw, batch_size, seed, ranks

    def batch(self, number: int) -> Batch:
        """The batch of a number, from 0; longest first. Of several ranks the part of this one."""
        places = number * self._batch_size + np.arange(self._batch_size, dtype=np.int64)
        epoch, place = np.divmod(places, self.num_examples)
        drawn = self._draw(permute(place, self.num_examples, self._seed, epoch))
        lengths = np.array([len(row.ids) for row in drawn.sequences])
        order = np.argsort(-lengths, kind="stable")
        lengths = lengths[order]
        starts = np.cumsum(lengths) - lengths
        if self._ranks.size > 1:
            is_own = deal(lengths.tolist(), self._ranks.size) == self._ranks.rank
            order, starts = order[is_own], starts[is_own]
        own = order.tolist()
        return packed(
            [drawn.sequences[i] for i in own],
            None if drawn.labels is None else drawn.labels[order],
            starts.tolist(),
            None if drawn.tags is None else [drawn.tags[i] for i in own],
        )
