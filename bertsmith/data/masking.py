"""Which tokens are to be predicted, and what stands in their place (Devlin et al. 2018, 3.1).

Legend: T = tokens of a batch; B = sequences; M = tokens to predict.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bertsmith.data.random_bits import Int64, UInt64, below, extend, uniform

_MASK_SHARE = 0.8  # of the chosen tokens become [MASK]
_RANDOM_SHARE = 0.1  # become a random word; the rest stay as they are


def choose_positions(
    maskable: npt.NDArray[np.bool_], sequence: Int64, bits: UInt64, probability: float
) -> Int64:
    """In each sequence a share of the maskable tokens, without replacement.

    The number is `probability` × maskable tokens, rounded, but at least 1 where there is any: the
    original's rule, with special tokens not counted.

    Args:
        maskable: bool [T]; False for special tokens.
        sequence: int64 [T]; the sequence of each token, in rising order.
        bits: uint64 [T]; random.
        probability: 0 to 1.

    Returns:
        int64 [M], rising.
    """
    candidates = np.flatnonzero(maskable)
    of = sequence[candidates]
    num_sequences = int(sequence[-1]) + 1 if len(sequence) else 0
    counts = np.bincount(of, minlength=num_sequences)
    wanted = np.minimum(np.maximum(np.rint(probability * counts).astype(np.int64), 1), counts)
    # One sort for all sequences: the sequence in the high bits, 40 random ones under it.
    keys = (of.astype(np.uint64) << np.uint64(40)) | (bits[candidates] >> np.uint64(24))
    order = np.argsort(keys, kind="stable")
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(candidates)) - np.repeat(starts, counts)  # within its sequence
    return np.sort(candidates[order[rank < np.repeat(wanted, counts)]])


def replace_tokens(tokens: Int64, bits: UInt64, mask_id: int, regular_ids: Int64) -> Int64:
    """What the model sees of the chosen tokens: 80 % [MASK], 10 % a random word, 10 % the token.

    Args:
        tokens: int64 [M]; the true ones.
        bits: uint64 [M]; random.
        mask_id: id of [MASK].
        regular_ids: int64 [V]; ids of words: a random word is never a special token.
    """
    draw = uniform(extend(bits, 0))
    random_words = regular_ids[below(extend(bits, 1), len(regular_ids))]
    return np.where(
        draw < _MASK_SHARE,
        mask_id,
        np.where(draw < _MASK_SHARE + _RANDOM_SHARE, random_words, tokens),
    )
