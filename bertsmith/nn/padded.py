"""Sequences in a padded grid whose size and padding are data: for graphs of other runtimes.

Legend: B = sequences; L = length of the grid; T = B · L cells of it; H = hidden size; N = heads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_NEVER = -3e4
"""Added to scores of what is not attended to: its exponential is 0 in float32, and it is a number
in float16, so that a row of padding, which nobody reads, has no NaN."""


@dataclass(frozen=True)
class PaddedLayout:
    """All cells of a grid, row by row, padding among them; in the place of a `Layout`.

    Training has no such: it is for inference alone, and without dropout.
    """

    is_token: Tensor
    """bool [B, L]."""
    window: int | None = None
    """Tokens on either side that a token attends to; None: all of its sequence."""

    def within(self, window: int) -> PaddedLayout:
        """The same for layers that attend to a window."""
        return replace(self, window=window)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
        """softmax(Q Kᵀ / √D) V in every head: float [T, H] each → [T, H]."""
        size, length = self.is_token.shape
        context = self.probabilities(query, key, num_heads) @ self._apart(value, num_heads)
        return context.transpose(1, 2).reshape(size * length, -1)

    def probabilities(self, query: Tensor, key: Tensor, num_heads: int) -> Tensor:
        """softmax(Q Kᵀ / √D): float [T, H] each → [B, N, L, L]."""
        query, key = (self._apart(cells, num_heads) for cells in (query, key))
        scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
        return torch.softmax(scores + self._bias(scores.dtype), dim=3)

    def _apart(self, cells: Tensor, num_heads: int) -> Tensor:
        """[T, H] → [B, N, L, D]."""
        return cells.view(*self.is_token.shape, num_heads, -1).transpose(1, 2)

    def _bias(self, dtype: torch.dtype) -> Tensor:
        """To add to scores: [B, 1, 1, L], or of a window [B, 1, L, L]."""
        may = self.is_token[:, None, None, :]
        if self.window is not None:
            places = torch.arange(self.is_token.shape[1], device=may.device)
            may = may & ((places[:, None] - places[None, :]).abs() <= self.window)
        return torch.where(may, 0.0, _NEVER).to(dtype)
