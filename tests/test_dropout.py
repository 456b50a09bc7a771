"""Dropout: the right share, independent places, and a function of place alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.nn.dropout import DropoutKey, _mix_, dropout, scale_of_kept
from bertsmith.random_bits import extend


def noise(key: int, num_tokens: int = 0) -> DropoutKey:
    return DropoutKey(key, torch.arange(num_tokens))


@pytest.mark.parametrize("probability", [0.1, 0.2, 0.5, 0.9])
def test_the_share_and_the_mean_are_right(probability: float) -> None:
    ones = torch.ones(2000, 130, dtype=torch.float64)
    found = dropout(ones, probability, noise(2**63 + 11, len(ones)), site=3)
    deviation = (probability * (1 - probability) / ones.numel()) ** 0.5
    assert abs(float((found == 0).double().mean()) - probability) < 5 * deviation
    assert abs(float(found.mean()) - 1) < 5 * deviation * scale_of_kept(probability)
    assert set(found.unique().tolist()) == {0.0, scale_of_kept(probability)}
    # Rows and columns by themselves too: no lane of the 64 bits is another's copy.
    for along in (0, 1):
        shares = (found == 0).double().mean(along)
        assert float(shares.std()) < 1.3 * (deviation**2 * shares.numel()) ** 0.5


def test_places_steps_and_tokens_are_independent() -> None:
    tokens, width = torch.arange(400), 64
    found = [noise(key).keeps(place, tokens, width, 0.5) for key, place in ((1, 0), (1, 1), (2, 0))]
    found.append(noise(1).keeps(0, tokens + 400, width, 0.5))
    signs = torch.stack([(keeps.double() * 2 - 1).flatten() for keeps in found])
    correlation = torch.corrcoef(signs) - torch.eye(len(found))
    assert float(correlation.abs().max()) < 5 / (len(tokens) * width) ** 0.5


@given(st.lists(st.integers(0, 69), min_size=1), st.integers(1, 9))
def test_some_tokens_and_some_columns_are_a_part_of_the_whole(rows: list[int], width: int) -> None:
    # Micro-batches, the few tokens of the last layer, and grids of short sequences ask for these.
    whole = noise(9, 70).keeps(4, torch.arange(70), 9, 0.3)
    some = noise(9, 70).of(torch.tensor(rows))
    assert torch.equal(some.keeps(4, some.tokens, width, 0.3), whole[rows, :width])


def test_the_gradient_is_dropped_where_the_value_is() -> None:
    hidden = torch.randn(20, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: dropout(x, 0.4, noise(3, 20), 1), hidden)


def test_nothing_is_dropped_outside_training() -> None:
    hidden = torch.randn(4, 4)
    assert dropout(hidden, 0.5, None, 0) is hidden
    assert dropout(hidden, 0.0, noise(1, 4), 0) is hidden


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_the_bits_are_those_of_the_batches(key: int, counter: int) -> None:
    expected = extend(np.array([key], dtype=np.uint64), counter)
    found = _mix_(torch.tensor([counter]), key)
    assert found.numpy().view(np.uint64)[0] == expected[0]
