from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bertsmith.random_bits import Stream, below, extend, permute, random_bits, uniform

SEEDS = st.integers(0, 2**63 - 1)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), seed=SEEDS, epoch=st.integers(0, 2**40))
def test_the_shuffle_is_one_to_one(size: int, seed: int, epoch: int) -> None:
    there = permute(np.arange(size), size, seed, epoch)
    assert np.array_equal(np.sort(there), np.arange(size))


@settings(max_examples=20, deadline=None)
@given(size=st.integers(10**9, 2**40), seed=SEEDS)
def test_the_shuffle_of_many_needs_no_table(size: int, seed: int) -> None:
    numbers = np.arange(0, size, size // 999)
    there = permute(numbers, size, seed, 3)
    assert (there >= 0).all()
    assert (there < size).all()
    assert len(np.unique(there)) == len(numbers)


def test_the_shuffle_mixes() -> None:
    there = permute(np.arange(10_000), 10_000, seed=0, epoch=0)
    # Of a random permutation: neighbours are uncorrelated, and about one number stays in place.
    assert abs(np.corrcoef(there[:-1], there[1:])[0, 1]) < 0.04
    assert np.count_nonzero(there == np.arange(10_000)) < 8
    other = permute(np.arange(10_000), 10_000, seed=0, epoch=1)
    assert np.count_nonzero(there == other) < 8


def test_a_number_may_come_alone_or_among_others() -> None:
    together = permute(np.arange(100), 100, 7, np.repeat([0, 1], 50))
    assert [int(permute(i, 100, 7, i // 50)[0]) for i in range(100)] == together.tolist()


def test_bits_are_even_and_differ_by_stream_seed_and_counter() -> None:
    numbers = np.arange(1 << 14)
    rows = [
        random_bits(seed, stream, counter, numbers)
        for seed in (0, 1)
        for stream in (Stream.ORDER, Stream.MASK_ACTION)
        for counter in (0, 1)
    ]
    assert len(np.unique(np.concatenate(rows))) == 8 * len(numbers)
    ones = (rows[0][:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(ones.mean(axis=0) - 0.5).max() < 0.02
    assert abs(uniform(rows[1]).mean() - 0.5) < 0.01


def test_extending_is_drawing_with_one_counter_more() -> None:
    bits = random_bits(3, Stream.ORDER, [1, 2])
    assert np.array_equal(extend(bits, 9), random_bits(3, Stream.ORDER, [1, 2], 9))


@settings(max_examples=30, deadline=None)
@given(bound=st.integers(1, 2**48))
def test_below_its_bound(bound: int) -> None:
    drawn = below(random_bits(0, Stream.ORDER, np.arange(100)), bound)
    assert (drawn >= 0).all()
    assert (drawn < bound).all()
