"""Where sequences lie in a packed batch, and the padded grid that some attention kernels need.

Legend: B = sequences; T = tokens of all of them; L = length of the longest; R = tokens chosen;
C = channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.hardware.device import rows_with_filler, to_device
from bertsmith.nn.dropout import DropoutKey
from bertsmith.nn.padded import PaddedLayout


@dataclass(frozen=True)
class Layout:
    """How packed rows [T, C] sit in a padded grid [B, L, C]; made once a batch for all layers.

    What a kernel does not ask for is not made.
    """

    lengths: tuple[int, ...]
    """B lengths in tokens, on the host, so that nothing waits for the device; empty where they are
    data of a compiled step, which meets no padded grid."""
    cu_seqlens: Tensor
    """int32 [B + 1]; where each sequence begins, and T; on the device."""
    longest: int = 0
    """L, or more, where the lengths are not known on the host."""

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device) -> Layout:
        """The layout of sequences of these lengths, in this order."""
        cu_seqlens = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return Layout(tuple(lengths), to_device(cu_seqlens, device))

    @property
    def num_sequences(self) -> int:
        """B."""
        return len(self.lengths)

    @property
    def max_length(self) -> int:
        """L."""
        return self.longest or self._max_length

    @cached_property
    def _max_length(self) -> int:
        return max(self.lengths)

    @cached_property
    def num_tokens(self) -> int:
        """T."""
        return sum(self.lengths)

    @cached_property
    def is_full(self) -> bool:
        """All lengths are equal, so that the grid has no padding and no copy is needed."""
        return min(self.lengths) == self.max_length

    @cached_property
    def _is_token(self) -> Tensor:
        """Which cells of the grid hold a token: bool [B, L], on the host, where the lengths are."""
        return torch.arange(self.max_length)[None, :] < torch.tensor(self.lengths)[:, None]

    @cached_property
    def rows(self) -> Tensor:
        """int64 [T]; the grid's row of each token."""
        return self._there(self._is_token.flatten().nonzero().squeeze(1))

    @cached_property
    def attention_mask(self) -> Tensor | None:
        """What may be attended to: bool [B, 1, 1, L], True = a token; None if all are."""
        return None if self.is_full else self._there(self._is_token[:, None, None, :])

    @cached_property
    def score_bias(self) -> Tensor | None:
        """The same to add to scores: float32 [B, 1, L], −∞ where there is no token, or None."""
        if self.is_full:
            return None
        bias = torch.zeros(self._is_token.shape).masked_fill_(~self._is_token, -torch.inf)
        return self._there(bias[:, None, :])

    def _there(self, made: Tensor) -> Tensor:
        return to_device(made, self.cu_seqlens.device)

    def pad(self, packed: Tensor) -> Tensor:
        """[T, C] or more rows → [B, L, C], zeros between the sequences; filler is left out."""
        packed = packed[: self.num_tokens]
        if not self.is_full:
            packed = _Scatter.apply(packed, self.rows, self.num_sequences * self.max_length)
        return packed.view(self.num_sequences, self.max_length, -1)

    def unpad(self, padded: Tensor, num_rows: int) -> Tensor:
        """[B, L, C] → [num_rows, C]; rows from T on are filler, of zeros."""
        flat = padded.reshape(self.num_sequences * self.max_length, -1)
        packed = flat if self.is_full else Gather.apply(flat, self.rows, None)
        filler = num_rows - self.num_tokens
        return F.pad(packed, (0, 0, 0, filler)) if filler else packed


class TokenRow(Protocol):
    """A text or pair in tokens."""

    @property
    def ids(self) -> list[int]:
        """[CLS] text [SEP] (text [SEP])."""
        ...

    @property
    def segments(self) -> list[int]:
        """0 of the first text, 1 of the second."""
        ...


class PackedInput(NamedTuple):
    """What an encoder takes: tokens of all sequences end to end, and how they lie."""

    input_ids: Tensor
    """int64 [T]."""
    token_type_ids: Tensor
    """int64 [T]."""
    position_ids: Tensor
    """int64 [T]; from 0 in each sequence."""
    layout: Layout | PaddedLayout
    dropout_key: DropoutKey | None = None
    """Of the tokens; None outside training."""

    @staticmethod
    def of(rows: Sequence[TokenRow], device: torch.device) -> PackedInput:
        """Lay texts or pairs end to end, in their order."""
        lengths = [len(row.ids) for row in rows]

        def flat(lists: Iterable[Iterable[int]]) -> Tensor:
            return torch.tensor([x for values in lists for x in values], device=device)

        return PackedInput(
            flat(row.ids for row in rows),
            flat(row.segments for row in rows),
            flat(range(length) for length in lengths),
            Layout.of(lengths, device),
        )

    def with_filler(self) -> PackedInput:
        """With more rows at the end where matrices are better multiplied so (`rows_with_filler`).

        The network gives vectors for them, which nobody reads.
        """
        num_rows = rows_with_filler(len(self.input_ids), self.input_ids.device)
        ids, types, positions = (filled(values, num_rows) for values in self[:3])
        key = self.dropout_key
        if key is not None:
            key = replace(key, tokens=filled(key.tokens, num_rows))
        return PackedInput(ids, types, positions, self.layout, key)


def filled(values: Tensor, length: int, *, filler: int = 0) -> Tensor:
    """`values` [N] with filler at their end: [length]."""
    if len(values) == length:
        return values
    return F.pad(values, (0, length - len(values)), value=filler)


@dataclass(frozen=True)
class TokenSubset:
    """Some tokens of each sequence: those whose last vectors somebody reads."""

    positions: Tensor
    """int64 [R]; positions in [0, T), rising."""
    layout: Layout
    """How they lie end to end; at least one of every sequence."""
    inverse: Tensor | None = None
    """int64 [T]; the index of each token among them, −1 if it is not; None: not known."""

    def select(self, packed: Tensor) -> Tensor:
        """[T, C] → [R, C]."""
        selected: Tensor = Gather.apply(packed, self.positions, self.inverse)
        return selected


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


class Gather(torch.autograd.Function):
    """Rows out of a grid. Its backward is a plain copy; torch's own adds up, which is slower.

    A row may be asked for twice only where no gradient comes to it. Given `inverse`, the
    index of each row of the grid among those that are asked for, −1 if it is not, the backward pass
    is a gather, too.
    """

    @staticmethod
    def forward(ctx: Any, grid: Tensor, rows: Tensor, inverse: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows if inverse is None else inverse)
        ctx.num_rows, ctx.has_inverse = len(grid), inverse is not None
        return grid.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        grad = grads[0]
        if ctx.has_inverse:
            found = grad.index_select(0, index.clamp(min=0))
            return torch.where(index[:, None] >= 0, found, 0), None, None
        return grad.new_zeros(ctx.num_rows, grad.shape[1]).index_copy_(0, index, grad), None, None
