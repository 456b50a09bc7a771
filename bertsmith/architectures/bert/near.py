"""First weights with which a layer's heads look at the places around a token.

A BERT begins with position vectors at random, and has to find out for each place which one is next
to it: a small network sees twenty thousand pairs before it does, and until then learns nothing but
how often words stand. Here the position vectors begin as waves (Vaswani et al. 2017, 3.5), of which
a neighbour's is a rotation, the same at every place; keys of the first layer begin as the vectors
themselves, and queries as the vectors turned by a place or several, back or on. It is near to
mimetic initialization (Trockman and Kolter 2023), where queries and keys begin alike in all layers;
here each head has its own distance, and only half of the first layer's heads begin so: where others
look near as well, [CLS] learns about pairs later (docs/experiments.md).

Legend: P = places; H = hidden size; D = H / heads, the size of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bertsmith.config import BertConfig

_SIZE = 5.0  # amplitude of the waves, in standard deviations of a word's vector
_SLOWEST = 1e-3  # radians a place; the quickest wave has 1


def waves(config: BertConfig) -> Tensor:
    """Position vectors: in each head's part sine and cosine of the same waves. float32 [P, H]."""
    places = torch.arange(config.max_position_embeddings, dtype=torch.float64)
    angles = places[:, None] * _rates(config)
    pairs = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
    part = torch.zeros(len(places), _head_size(config), dtype=torch.float64)
    part[:, : pairs.shape[1]] = pairs
    size = _SIZE * config.initializer_range
    return (size * part).repeat(1, config.num_attention_heads).float()


def queries_and_keys(config: BertConfig) -> Tensor:
    """Projections to add to what was drawn: of queries, and below them of keys. float32 [2H, H].

    Nothing is added to those of the heads that have no distance.
    """
    turns = [_turn(config, distance) for distance in distances(config.num_attention_heads)]
    added = torch.zeros(2, config.hidden_size, config.hidden_size)
    near = len(turns) * _head_size(config)
    added[0, :near, :near] = torch.block_diag(*turns)
    added[1, :near, :near] = torch.eye(near)
    return added.flatten(0, 1)


def distances(num_heads: int) -> list[int]:
    """How many places on the first heads look: -1, 1, -2, 2 and so on; the other half is free."""
    near = max(1, num_heads // 2)
    return [(1 + head // 2) * (1 if head % 2 else -1) for head in range(near)]


def _turn(config: BertConfig, distance: int) -> Tensor:
    """What makes of the waves of a place those `distance` places on. float32 [D, D]."""
    turn = torch.eye(_head_size(config), dtype=torch.float64)
    for number, angle in enumerate(_rates(config) * distance):
        cosine, sine = angle.cos(), angle.sin()
        first = 2 * number
        turn[first : first + 2, first : first + 2] = torch.tensor([[cosine, sine], [-sine, cosine]])
    return turn.float()


def _rates(config: BertConfig) -> Tensor:
    """Radians a place of each wave, from 1 down. float64 [D / 2]."""
    number = _head_size(config) // 2
    return _SLOWEST ** (torch.arange(number, dtype=torch.float64) / max(1, number))


def _head_size(config: BertConfig) -> int:
    return config.hidden_size // config.num_attention_heads
