"""Self-attention within each sequence: one function, and the kernels behind it.

Legend: B = sequences; T = tokens of all of them; L = length of the longest; H = hidden size;
N = heads; D = H / N.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.model.dropout import scale_of_kept
from bertsmith.model.layout import Layout

_LONGEST_WITH_SCORES_KEPT = 512
"""Up to this length the score matrices [L, L] are few beside the other activations."""


def attend(
    qkv: Tensor, layout: Layout, num_heads: int, dropout_prob: float = 0.0, *, place: int = 0
) -> Tensor:
    """softmax(Q Kᵀ / √D) V in every head of every sequence (Vaswani et al. 2017, 3.2).

    Args:
        qkv: float [T, 3 * H]; queries, keys and values side by side, heads within each.
        layout: where each sequence lies; its `noise` drops probabilities.
        num_heads: N.
        dropout_prob: of the attention probabilities, if the layout has noise.
        place: the number of the first head's dropout in the network.

    Returns:
        [T, H].
    """
    drops = bool(dropout_prob) and layout.noise is not None
    if qkv.is_cuda and qkv.dtype in (torch.float16, torch.bfloat16) and not drops:
        return _attend_unpadded(qkv, layout, num_heads)
    if drops or (
        qkv.device.type == "cpu"
        and qkv.dtype in (torch.float32, torch.float64)
        and layout.max_length <= _LONGEST_WITH_SCORES_KEPT
    ):
        out: Tensor = _AttendKeepingScores.apply(qkv, layout, num_heads, dropout_prob, place)
        return out
    return _attend_padded(qkv, layout, num_heads)


def _attend_unpadded(qkv: Tensor, layout: Layout, num_heads: int) -> Tensor:
    """Flash attention over sequences end to end: CUDA only, and without dropout."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = qkv.unflatten(1, (3, num_heads, -1)).unbind(1)  # [T, N, D] each
    ends, longest = layout.cu_seqlens, layout.max_length
    context = varlen_attn(query, key, value, ends, ends, longest, longest)
    assert isinstance(context, Tensor)  # a pair only where more is asked for
    return context.flatten(1)


def _attend_padded(qkv: Tensor, layout: Layout, num_heads: int) -> Tensor:
    """PyTorch's own choice of kernel, on the padded grid: any device, any length."""
    heads = layout.pad(qkv).unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = heads.unbind(0)  # [B, N, L, D] each
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=layout.attention_mask)
    return layout.unpad(context.transpose(1, 2).flatten(2))


class _AttendKeepingScores(torch.autograd.Function):
    """Plain batched products, head by head, straight on the columns of the grid.

    No copy brings the heads apart or the gradients together, and the probabilities are kept for the
    backward pass: at BERT's lengths quicker on a CPU than PyTorch's kernel, which makes them anew.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, layout: Layout, num_heads: int, dropout_prob: float, place: int
    ) -> Tensor:
        grid = layout.pad(qkv)  # [B, L, 3 * H]
        context = grid.new_empty(*grid.shape[:2], grid.shape[2] // 3)
        kept = []
        for head, (q, k, v) in enumerate(_head_columns(grid.shape[2], num_heads)):
            scores = _scaled_scores(grid[..., q], grid[..., k], layout.score_bias)  # [B, L, L]
            probs = torch.softmax(scores, 2, out=scores)
            keeps = None
            if dropout_prob and layout.noise is not None:
                keeps = layout.noise.keeps_scores(place + head, probs, dropout_prob)
            context[..., q] = torch.bmm(_drop(probs, keeps, dropout_prob), grid[..., v])
            kept += [probs, keeps]
        ctx.save_for_backward(grid, *kept)
        ctx.layout, ctx.num_heads, ctx.dropout_prob = layout, num_heads, dropout_prob
        return layout.unpad(context)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grid, *kept = ctx.saved_tensors
        layout: Layout = ctx.layout
        grad_context = layout.pad(grads[0])  # [B, L, H]
        grad_grid = torch.empty_like(grid)
        columns = _head_columns(grid.shape[2], ctx.num_heads)
        for (q, k, v), probs, keeps in zip(columns, kept[::2], kept[1::2], strict=True):
            grad = grad_context[..., q]
            dropped = _drop(probs, keeps, ctx.dropout_prob)
            grad_grid[..., v] = torch.bmm(dropped.transpose(1, 2), grad)
            grad_probs = torch.bmm(grad, grid[..., v].transpose(1, 2))
            grad_probs = _drop(grad_probs, keeps, ctx.dropout_prob)
            # The gradient of a softmax: p * (dp - sum of p * dp over the row).
            along = torch.linalg.vecdot(grad_probs, probs).unsqueeze(2)
            grad_scores = grad_probs.sub_(along).mul_(probs)
            grad_scores *= (q.stop - q.start) ** -0.5
            grad_grid[..., q] = torch.bmm(grad_scores, grid[..., k])
            grad_grid[..., k] = torch.bmm(grad_scores.transpose(1, 2), grid[..., q])
        return layout.unpad(grad_grid), None, None, None, None


def _drop(probs: Tensor, keeps: Tensor | None, probability: float) -> Tensor:
    """`probs` or its gradient with what `keeps` leaves of it, scaled up; None keeps all."""
    return probs if keeps is None else (probs * keeps).mul_(scale_of_kept(probability))


def _head_columns(width: int, num_heads: int) -> list[tuple[slice, slice, slice]]:
    """Where query, key and value of each head lie in the `width` = 3 * H columns."""
    hidden = width // 3
    size = hidden // num_heads
    query = [slice(start, start + size) for start in range(0, hidden, size)]
    key, value = (
        [slice(s.start + shift, s.stop + shift) for s in query] for shift in (hidden, 2 * hidden)
    )
    return list(zip(query, key, value, strict=True))


def _scaled_scores(query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    """Q Kᵀ / √D, −∞ where `bias` says: [B, L, D] twice → [B, L, L]."""
    scale = query.shape[2] ** -0.5
    if bias is None:
        return torch.bmm(query, key.transpose(1, 2)).mul_(scale)
    return torch.baddbmm(bias.to(query.dtype), query, key.transpose(1, 2), alpha=scale)
