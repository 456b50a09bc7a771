"""Where sequences lie in a packed batch, and the one place that pads: inside attention.

Legend: B = sequences; T = tokens of all of them; L = length of the longest; C = channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How packed rows [T, C] sit in a padded grid [B, L, C]; made once a batch for all layers."""

    num_sequences: int
    """B."""
    max_length: int
    """L."""
    rows: Tensor | None
    """int64 [T]; the grid's row of each token; None if all lengths are equal: no copy is needed."""
    attention_mask: Tensor | None
    """bool [B, 1, 1, L], True = a token; None if all lengths are equal."""

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device) -> Layout:
        """The layout of sequences of these lengths, in this order."""
        longest = max(lengths)
        if min(lengths) == longest:
            return Layout(len(lengths), longest, None, None)
        # Made on the host, since that is where the lengths are, and sent in one copy.
        column = torch.arange(longest)
        mask = column[None, :] < torch.tensor(lengths)[:, None]  # [B, L]
        rows = mask.flatten().nonzero().squeeze(1)
        return Layout(
            len(lengths),
            longest,
            rows.to(device),
            mask[:, None, None, :].to(device),
        )

    def pad(self, packed: Tensor) -> Tensor:
        """[T, C] → [B, L, C], zeros between the sequences."""
        if self.rows is not None:
            packed = _Scatter.apply(packed, self.rows, self.num_sequences * self.max_length)
        return packed.view(self.num_sequences, self.max_length, -1)

    def unpad(self, padded: Tensor) -> Tensor:
        """[B, L, C] → [T, C]."""
        flat = padded.reshape(self.num_sequences * self.max_length, -1)
        return flat if self.rows is None else _Gather.apply(flat, self.rows)


class _Scatter(torch.autograd.Function):
    """Rows into a grid of zeros. Its backward is a plain gather, since no row is written twice."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, rows: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(rows)
        return packed.new_zeros(num_rows, packed.shape[1]).index_copy_(0, rows, packed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        return grads[0].index_select(0, rows), None, None


class _Gather(torch.autograd.Function):
    """Rows out of a grid. Its backward is a plain copy; torch's own adds up, which is slower."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.num_rows = len(grid)
        return grid.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        grad = grads[0]
        return grad.new_zeros(ctx.num_rows, grad.shape[1]).index_copy_(0, rows, grad), None
