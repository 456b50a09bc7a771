"""Rotary positions (Su et al. 2021): queries and keys turned by angles that follow from positions.

The halves of a head are the two coordinates of its planes (as Hugging Face has it), not neighbours
(as the paper has it).

Legend: T = tokens; N = heads; D = size of a head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Cosines and sines of each token's angles."""

    cosines: Tensor
    """float [T, D / 2]."""
    sines: Tensor
    """float [T, D / 2]."""

    @staticmethod
    def of(position_ids: Tensor, head_size: int, theta: float, dtype: torch.dtype) -> Rotation:
        """Of tokens at these positions.

        Angles are made in float32 whatever `dtype` is, as in Hugging Face's models.

        Args:
            position_ids: int64 [T].
            head_size: D, even.
            theta: the base; plane i of D / 2 turns by theta^(-2i / D) a position.
            dtype: of the result, at least float32.
        """
        steps = torch.arange(0, head_size, 2, dtype=torch.float32, device=position_ids.device)
        angles = position_ids[:, None].float() * (1.0 / theta ** (steps / head_size))
        return Rotation(angles.cos().to(dtype), angles.sin().to(dtype))

    def of_rows(self, rows: Tensor) -> Rotation:
        """The same for some of the tokens: int64 [S]."""
        return Rotation(self.cosines.index_select(0, rows), self.sines.index_select(0, rows))


def rotate_(projected: Tensor, rotation: Rotation, num_columns: int) -> Tensor:
    """Every head in the first columns turned by its token's angles, in place.

    What a linear layer made it does not need again, so that nothing is lost; the projection of
    query, key and value stays one tensor.

    Args:
        projected: float [T, C]; heads side by side in the first columns, queries before keys.
        rotation: of the T tokens.
        num_columns: of heads that are turned; a multiple of D.

    Returns:
        `projected`; products and sums are made in float32 at least.
    """
    if torch.compiler.is_compiling():
        turned = _turned(projected[:, :num_columns], *rotation)
        return torch.cat([turned, projected[:, num_columns:]], dim=1)
    rotated: Tensor = _Rotate.apply(projected, *rotation, num_columns)
    return rotated


class _Rotate(torch.autograd.Function):
    """Its backward pass turns the gradient back; nothing but the angles is kept for it."""

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, cosines: Tensor, sines: Tensor, num_columns: int
    ) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        ctx.num_columns = num_columns
        ctx.mark_dirty(projected)
        heads = projected[:, :num_columns]
        heads.copy_(_turned(heads, cosines, sines))
        return projected

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cosines, sines = ctx.saved_tensors
        grad = grads[0].clone()
        heads = grad[:, : ctx.num_columns]
        heads.copy_(_turned(heads, cosines, -sines))
        return grad, None, None, None


def _turned(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """[T, N * D] → the same, in the type of the angles."""
    planes = heads.unflatten(1, (-1, 2, cosines.shape[1]))  # [T, N, 2, D / 2]
    first, second = planes.unbind(2)
    cosines, sines = cosines[:, None], sines[:, None]
    turned = first * cosines - second * sines, second * cosines + first * sines
    return torch.stack(turned, dim=2).flatten(1)
