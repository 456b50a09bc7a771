"""Rows of an embedding matrix, with a gradient on CUDA whose bytes do not vary from run to run.

The gradient of a row is the sum over all tokens that have it. PyTorch's kernels add on CUDA by
atomic operations in no fixed order, or, where determinism is asked for, sort the tokens first and
take several times as long. Sums of integers do not depend on their order: here gradients become
fixed-point numbers of 64 bits, which atomic operations add exactly.

Legend: T = tokens; V = rows; H = hidden size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_BITS = 62  # of a sum, without its sign, and one to spare
_LEAST = 2.0**-60  # magnitude: a float32 holds the scale of any larger one


def embed(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows `ids` (int64 [T]) of `weight` (float [V, H]): [T, H], as `F.embedding` gives them."""
    if not weight.is_cuda:
        return F.embedding(ids, weight)
    rows: Tensor = _Embed.apply(ids, weight)
    return rows


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.num_rows = len(weight)
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        return None, torch.ops.bertsmith.sum_by_row(grads[0], ids, ctx.num_rows)


@torch.library.custom_op("bertsmith::sum_by_row", mutates_args=())
def sum_by_row(values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Sum of the values of each row, the same bytes in whatever order they are added.

    Values are rounded to 2^−k of the largest magnitude, where k is at least 60 − log2 T: far beyond
    a float's 24 bits. If one of them is not finite, no sum is.

    Args:
        values: float [T, H].
        rows: int64 [T]; each in [0, V).
        num_rows: V.

    Returns:
        [V, H], of the type of `values`.
    """
    largest = values.abs().amax().double().clamp(min=_LEAST)
    exponent = _BITS - math.ceil(math.log2(len(rows) + 1)) - torch.ceil(torch.log2(largest))
    scale = torch.exp2(exponent)
    sums = torch.zeros(num_rows, values.shape[1], dtype=torch.int64, device=values.device)
    was_asked = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)  # which would sort, to no purpose
    try:
        sums.index_add_(0, rows, (values * scale).long())
    finally:
        torch.use_deterministic_algorithms(was_asked, warn_only=only_warns)
    return (sums / scale).to(values.dtype)


@sum_by_row.register_fake
def _(values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    return values.new_empty(num_rows, values.shape[1])
