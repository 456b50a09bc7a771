"""How a pair of texts is truncated to a length."""

from __future__ import annotations

import numpy as np

from bertsmith.random_bits import Int64

NUM_SPECIAL_IN_PAIR = 3
"""[CLS] A [SEP] B [SEP]."""


def truncated_lengths(a: Int64, b: Int64, num_tokens: int) -> tuple[Int64, Int64]:
    """Lengths of A and B, int64 [B] each, cut from the longer one until both fit in `num_tokens`.

    The closed form of taking tokens off the longer side until the pair fits; of an odd room, the
    side that was longer (B if none was) keeps the one token more. What `transformers` calls
    `longest_first`.
    """
    shorter = np.minimum(np.minimum(a, b), num_tokens // 2)
    longer = np.minimum(np.maximum(a, b), num_tokens - shorter)
    return np.where(a <= b, shorter, longer), np.where(a <= b, longer, shorter)
