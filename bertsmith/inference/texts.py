"""Texts on their way into a model: cut to length, laid end to end.

Legend: B = texts or pairs; T = tokens of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from bertsmith.data.pairs import NUM_SPECIAL_IN_PAIR, cut_lengths
from bertsmith.model.layout import Layout


class Row(Protocol):
    """A text or pair in tokens."""

    @property
    def ids(self) -> list[int]:
        """[CLS] text [SEP] (text [SEP])."""
        ...

    @property
    def segments(self) -> list[int]:
        """0 of the first text, 1 of the second."""
        ...


class Packed(NamedTuple):
    """B rows end to end, as the encoder takes them."""

    input_ids: Tensor
    """int64 [T]."""
    token_type_ids: Tensor
    """int64 [T]."""
    position_ids: Tensor
    """int64 [T]."""
    layout: Layout


def pack(rows: Sequence[Row], device: torch.device) -> Packed:
    """Lay rows end to end, in their order."""
    lengths = [len(row.ids) for row in rows]

    def flat(lists: Iterable[Iterable[int]]) -> Tensor:
        return torch.tensor([x for values in lists for x in values], device=device)

    return Packed(
        flat(row.ids for row in rows),
        flat(row.segments for row in rows),
        flat(range(length) for length in lengths),
        Layout.of(lengths, device),
    )


def kept_places(segments: list[int], max_length: int) -> list[int]:
    """Places of [CLS] A [SEP] (B [SEP]) that stay when it is cut to `max_length`, longest first."""
    total = len(segments)
    if total <= max_length:
        return list(range(total))
    if 1 not in segments:
        return [*range(max_length - 1), total - 1]
    begin_b = segments.index(1)
    length_a, length_b = np.array([begin_b - 2]), np.array([total - begin_b - 1])
    a, b = (int(x[0]) for x in cut_lengths(length_a, length_b, max_length - NUM_SPECIAL_IN_PAIR))
    return [*range(a + 1), begin_b - 1, *range(begin_b, begin_b + b), total - 1]
