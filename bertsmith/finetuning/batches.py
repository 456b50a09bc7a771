"""Labelled rows as batches of a training: step number in, tensors out.

Legend: N = rows; B = those of a batch; T = tokens of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bertsmith.batch import Batch
from bertsmith.data.deal import deal
from bertsmith.finetuning.labels import Targets
from bertsmith.random_bits import permute
from bertsmith.rows import Row, packed


class LabelledBatches:
    """All batches of a training: `batch(number)` is a pure function of the rows and the seed.

    Each epoch has its own order; a batch may reach from one epoch into the next, as in pretraining.

    Args:
        rows: N of them.
        targets: their labels, in the model's unit.
        batch_size: rows a batch; at most N.
        seed: the order follows from it.
        rank, num_ranks: whose part of each batch is made, and of how many.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        targets: Targets,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.num_examples = len(rows)
        self._rows, self._targets = rows, targets
        self._batch_size, self._seed = batch_size, seed
        self._rank, self._num_ranks = rank, num_ranks

    def batch(self, number: int) -> Batch:
        """The batch of a number, from 0; longest row first. Of several ranks the part of this."""
        places = number * self._batch_size + np.arange(self._batch_size, dtype=np.int64)
        epoch, place = np.divmod(places, self.num_examples)
        chosen = permute(place, self.num_examples, self._seed, epoch)
        lengths = np.array([len(self._rows[row].ids) for row in chosen.tolist()])
        order = np.argsort(-lengths, kind="stable")
        chosen, lengths = chosen[order], lengths[order]
        starts = np.cumsum(lengths) - lengths
        if self._num_ranks > 1:
            is_own = deal(lengths.tolist(), self._num_ranks) == self._rank
            chosen, starts = chosen[is_own], starts[is_own]
        rows = [self._rows[row] for row in chosen.tolist()]
        return packed(rows, self._targets[chosen], starts.tolist())
