"""Random numbers as a function of where they are used, and a shuffle that needs no memory.

There is no generator whose state would have to be saved: the bits for example 17 of epoch 3 are
computed from those two numbers and the seed, whichever process asks, in whatever order. This is
invariant 2 of the design; exact resume and equal batches on any number of devices follow from it.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: SplitMix64's increment
_FEISTEL_ROUNDS = 6


class Stream(IntEnum):
    """What random bits are for; different uses never share bits."""

    ORDER = 1
    NEXT_SENTENCE = 2
    PAIR_SHAPE = 3
    MASK_POSITION = 4
    MASK_ACTION = 5
    DROPOUT = 6


def random_bits(seed: int, stream: Stream, *counters: npt.ArrayLike) -> UInt64:
    """64 random bits for each combination of `counters`, which broadcast against one another.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
    generators", figure 16) applied to the seed and then to each counter in turn.

    Args:
        seed: the run's, 0 to 2**63 - 1.
        stream: what the bits are for.
        counters: integers, or arrays of them, 0 or more.

    Returns:
        uint64, of the shape that the counters broadcast to.
    """
    bits = _mix(np.atleast_1d(np.uint64(seed) ^ (np.uint64(stream) << np.uint64(56))))
    for counter in counters:
        bits = extend(bits, counter)
    return bits


def extend(bits: UInt64, counter: npt.ArrayLike) -> UInt64:
    """Bits for one counter more: `extend(random_bits(s, u, a), b)` is `random_bits(s, u, a, b)`."""
    # At least one dimension: numpy warns of overflow in scalars, and here overflow is the point.
    steps = np.atleast_1d(np.asarray(counter)).astype(np.uint64)
    steps += np.uint64(1)
    steps *= _GOLDEN
    return _mix(bits + steps)


def below(bits: UInt64, bound: npt.ArrayLike) -> Int64:
    """Integers in [0, bound), uniform to within bound / 2**32, or / 2**53 of larger bounds."""
    if np.max(bound, initial=0) >= 2**32:
        return (uniform(bits) * np.asarray(bound)).astype(np.int64)
    high = bits >> np.uint64(32)
    return ((high * np.asarray(bound).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def uniform(bits: UInt64) -> npt.NDArray[np.float64]:
    """Floats in [0, 1) of 53 bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(numbers: npt.ArrayLike, size: int, seed: int, epoch: npt.ArrayLike) -> Int64:
    """Where each number of [0, size) goes in the shuffle of its epoch.

    A Feistel network on the smallest square of a power of two that holds `size`; what falls outside
    is sent through again until it falls inside ("cycle walking", Black and Rogaway 2002). The map
    is one-to-one for every size, and needs neither a table nor the numbers before it.

    Args:
        numbers: int64 [N], in [0, size).
        size: how many there are.
        seed: the run's.
        epoch: int64 [N] or one number; every epoch has another order.

    Returns:
        int64 [N], in [0, size).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    value = np.atleast_1d(np.asarray(numbers)).astype(np.uint64)
    key = random_bits(seed, Stream.ORDER, epoch)
    keys = np.stack(
        [np.broadcast_to(extend(key, turn), value.shape) for turn in range(_FEISTEL_ROUNDS)]
    )
    found = np.empty_like(value)
    places = np.arange(len(value))  # of those that are outside
    while len(places):
        left, right = value >> half, value & mask
        for own in keys:
            left, right = right, left ^ (extend(own, right) & mask)
        value = (left << half) | right
        found[places] = value
        outside = value >= np.uint64(size)
        places, value, keys = places[outside], value[outside], keys[:, outside]
    return found.astype(np.int64)


def _mix(bits: UInt64) -> UInt64:
    bits = bits ^ (bits >> np.uint64(30))
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits
