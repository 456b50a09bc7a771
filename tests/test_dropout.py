"""Dropout: the right share, independent places, and a function of place alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.data.random_bits import extend
from bertsmith.model.dropout import Noise, _mix_, dropout, scale_of_kept


@pytest.mark.parametrize("probability", [0.1, 0.2, 0.5, 0.9])
def test_the_share_and_the_mean_are_right(probability: float) -> None:
    ones = torch.ones(2000, 130, dtype=torch.float64)
    found = dropout(ones, probability, Noise(key=2**63 + 11), place=3)
    deviation = (probability * (1 - probability) / ones.numel()) ** 0.5
    assert abs(float((found == 0).double().mean()) - probability) < 5 * deviation
    assert abs(float(found.mean()) - 1) < 5 * deviation * scale_of_kept(probability)
    assert set(found.unique().tolist()) == {0.0, scale_of_kept(probability)}
    # Rows and columns by themselves too: no lane of the 64 bits is another's copy.
    for along in (0, 1):
        shares = (found == 0).double().mean(along)
        assert float(shares.std()) < 1.3 * (deviation**2 * shares.numel()) ** 0.5


def test_places_steps_and_scores_are_independent() -> None:
    like = torch.empty(400, 64)
    scores = torch.empty(50, 8, 64)
    found = [
        Noise(1).keeps_hidden(0, like, 0.5),
        Noise(1).keeps_hidden(1, like, 0.5),
        Noise(2).keeps_hidden(0, like, 0.5),
        Noise(1).keeps_scores(2, scores.view(400, 8, 8), 0.5).reshape(400, 64),
    ]
    signs = torch.stack([(keeps.double() * 2 - 1).flatten() for keeps in found])
    correlation = torch.corrcoef(signs) - torch.eye(len(found))
    assert float(correlation.abs().max()) < 5 / like.numel() ** 0.5


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 9), st.integers(1, 9))
def test_a_part_is_a_slice_of_the_whole(first: int, row: int, width: int, length: int) -> None:
    whole = Noise(9).keeps_hidden(4, torch.empty(70, width), 0.3)
    part = Noise(9, first_token=first).keeps_hidden(4, torch.empty(40, width), 0.3)
    assert torch.equal(part, whole[first : first + 40])
    # A shorter grid, as a micro-batch of short sequences has, sees the same numbers.
    scores = Noise(9).keeps_scores(4, torch.empty(61, 12, 12), 0.3)
    some = Noise(9, first_sequence=row).keeps_scores(4, torch.empty(30, length, length), 0.3)
    assert torch.equal(some, scores[row : row + 30, :length, :length])


def test_the_gradient_is_dropped_where_the_value_is() -> None:
    hidden = torch.randn(20, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: dropout(x, 0.4, Noise(3), 1), hidden)


def test_nothing_is_dropped_outside_training() -> None:
    hidden = torch.randn(4, 4)
    assert dropout(hidden, 0.5, None, 0) is hidden
    assert dropout(hidden, 0.0, Noise(1), 0) is hidden


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_the_bits_are_those_of_the_batches(key: int, counter: int) -> None:
    expected = extend(np.array([key], dtype=np.uint64), counter)
    found = _mix_(torch.tensor([counter]), key)
    assert found.numpy().view(np.uint64)[0] == expected[0]
