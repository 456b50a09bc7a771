"""Self-attention within each sequence: one function, and the kernels behind it.

Legend: B = sequences; T = tokens of all of them; L = length of the longest; R = tokens that ask;
Q = most of them in a sequence; H = hidden size; N = heads; D = H / N.
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
    query: Tensor,
    key_value: Tensor,
    queries: Layout,
    keys: Layout,
    num_heads: int,
    dropout_prob: float = 0.0,
    *,
    place: int = 0,
) -> Tensor:
    """softmax(Q Kᵀ / √D) V in every head of every sequence (Vaswani et al. 2017, 3.2).

    Args:
        query: float [R, H], heads side by side.
        key_value: float [T, 2 * H]; keys and values side by side, heads within each.
        queries: where each sequence's queries lie; its `noise` drops probabilities.
        keys: where each sequence's keys and values lie; the same sequences in the same order.
        num_heads: N.
        dropout_prob: of the attention probabilities, if there is noise.
        place: the number of the first head's dropout in the network.

    Returns:
        [R, H].
    """
    drops = bool(dropout_prob) and queries.noise is not None
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not drops:
        return _attend_unpadded(query, key_value, queries, keys, num_heads)
    if keeps_scores(query.device.type, query.dtype, keys.max_length, drops=drops):
        out: Tensor = _AttendKeepingScores.apply(
            query, key_value, queries, keys, num_heads, dropout_prob, place
        )
        return out
    return _attend_padded(query, key_value, queries, keys, num_heads)


def keeps_scores(device_type: str, dtype: torch.dtype, max_length: int, *, drops: bool) -> bool:
    """Whether all probabilities are kept for the backward pass: [B, N, Q, L] of them."""
    is_full = dtype in (torch.float32, torch.float64)
    return drops or (device_type == "cpu" and is_full and max_length <= _LONGEST_WITH_SCORES_KEPT)


def _attend_unpadded(
    query: Tensor, key_value: Tensor, queries: Layout, keys: Layout, num_heads: int
) -> Tensor:
    """Flash attention over sequences end to end: CUDA only, and without dropout."""
    from torch.nn.attention.varlen import varlen_attn

    heads = query.unflatten(1, (num_heads, -1))  # [R, N, D]
    key, value = key_value.unflatten(1, (2, num_heads, -1)).unbind(1)  # [T, N, D] each
    ends = (queries.cu_seqlens, keys.cu_seqlens)
    context = varlen_attn(heads, key, value, *ends, queries.max_length, keys.max_length)
    assert isinstance(context, Tensor)  # a pair only where more is asked for
    return context.flatten(1)


def _attend_padded(
    query: Tensor, key_value: Tensor, queries: Layout, keys: Layout, num_heads: int
) -> Tensor:
    """PyTorch's own choice of kernel, on padded grids: any device, any length."""
    heads = queries.pad(query).unflatten(2, (num_heads, -1)).transpose(1, 2)  # [B, N, Q, D]
    grid = keys.pad(key_value).unflatten(2, (2, num_heads, -1)).permute(2, 0, 3, 1, 4)
    key, value = grid.unbind(0)  # [B, N, L, D] each
    context = F.scaled_dot_product_attention(heads, key, value, attn_mask=keys.attention_mask)
    return queries.unpad(context.transpose(1, 2).flatten(2))


class _AttendKeepingScores(torch.autograd.Function):
    """Plain batched products, head by head, straight on the columns of the grid.

    No copy brings the heads apart or the gradients together, and the probabilities are kept for the
    backward pass: at BERT's lengths quicker on a CPU than PyTorch's kernel, which makes them anew.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key_value: Tensor,
        queries: Layout,
        keys: Layout,
        num_heads: int,
        dropout_prob: float,
        place: int,
    ) -> Tensor:
        asking, grid = queries.pad(query), keys.pad(key_value)  # [B, Q, H], [B, L, 2 * H]
        context = torch.empty_like(asking, memory_format=torch.contiguous_format)
        kept = []
        for head, (q, k, v) in enumerate(_head_columns(asking.shape[2], num_heads)):
            scores = _scaled_scores(asking[..., q], grid[..., k], keys.score_bias)  # [B, Q, L]
            probs = torch.softmax(scores, 2, out=scores)
            keeps = None
            if dropout_prob and queries.noise is not None:
                tokens = queries.pad(queries.noise.tokens[:, None]).squeeze(2)
                keeps = queries.noise.keeps(place + head, tokens, keys.max_length, dropout_prob)
            context[..., q] = torch.bmm(_drop(probs, keeps, dropout_prob), grid[..., v])
            kept += [probs, keeps]
        ctx.save_for_backward(asking, grid, *kept)
        ctx.queries, ctx.keys = queries, keys
        ctx.num_heads, ctx.dropout_prob = num_heads, dropout_prob
        return queries.unpad(context)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        asking, grid, *kept = ctx.saved_tensors
        queries: Layout = ctx.queries
        keys: Layout = ctx.keys
        grad_context = queries.pad(grads[0])  # [B, Q, H]
        grad_asking = torch.empty_like(asking, memory_format=torch.contiguous_format)
        grad_grid = torch.empty_like(grid, memory_format=torch.contiguous_format)
        columns = _head_columns(asking.shape[2], ctx.num_heads)
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
            grad_asking[..., q] = torch.bmm(grad_scores, grid[..., k])
            grad_grid[..., k] = torch.bmm(grad_scores.transpose(1, 2), asking[..., q])
        inputs = (queries.unpad(grad_asking), keys.unpad(grad_grid))
        return *inputs, None, None, None, None, None


def _drop(probs: Tensor, keeps: Tensor | None, probability: float) -> Tensor:
    """`probs` or its gradient with what `keeps` leaves of it, scaled up; None keeps all."""
    return probs if keeps is None else (probs * keeps).mul_(scale_of_kept(probability))


def _head_columns(hidden: int, num_heads: int) -> list[tuple[slice, slice, slice]]:
    """Where each head's query lies in H columns, and its key and value in 2 * H."""
    size = hidden // num_heads
    key = [slice(start, start + size) for start in range(0, hidden, size)]
    value = [slice(s.start + hidden, s.stop + hidden) for s in key]
    return list(zip(key, key, value, strict=True))


def _scaled_scores(query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    """Q Kᵀ / √D, −∞ where `bias` says: [B, Q, D], [B, L, D] → [B, Q, L]."""
    scale = query.shape[2] ** -0.5
    if bias is None:
        return torch.bmm(query, key.transpose(1, 2)).mul_(scale)
    return torch.baddbmm(bias.to(query.dtype), query, key.transpose(1, 2), alpha=scale)
