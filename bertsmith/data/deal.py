"""Which rank works on which sequence of a batch.

Legend: B = sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapreplace

import numpy as np

from bertsmith.random_bits import Int64


def deal(lengths: Sequence[int], num_ranks: int) -> Int64:
    """Give the ranks about equally many tokens: the next sequence to the one that has least.

    Longest first, as they must come, what the ranks get differs by less than the shortest of the
    last sequences (Graham 1969), and every rank gets one if there are enough.

    Args:
        lengths: B lengths in tokens, falling.
        num_ranks: at least 1.

    Returns:
        int64 [B]; the rank of each sequence.
    """
    loads = [(0, rank) for rank in range(num_ranks)]  # a heap: the least loaded first
    ranks = np.empty(len(lengths), dtype=np.int64)
    for place, length in enumerate(lengths):
        tokens, rank = loads[0]
        ranks[place] = rank
        heapreplace(loads, (tokens + length, rank))
    return ranks
