"""Self-attention within each sequence: one function, and the kernels behind it.

Legend: B = sequences; T = tokens of all of them; L = length of the longest; R = tokens that ask;
Q = most of them in a sequence; H = hidden size; N = heads; D = H / N.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.hardware.device import whole_on_cpu
from bertsmith.nn.dropout import DropoutKey, scale_of_kept
from bertsmith.nn.layout import Layout
from bertsmith.nn.padded import PaddedLayout

_LONGEST_WITH_SCORES_KEPT = 512
"""Up to this length the score matrices [L, L] are few beside the other activations."""

_SMALL_SHARED_MEMORY = {(8, 6), (8, 9), (12, 0), (12, 1)}
"""Compute capabilities on which PyTorch's flash attention has no backward pass for some sizes."""


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Layout | PaddedLayout,
    keys: Layout | PaddedLayout,
    num_heads: int,
    dropout_prob: float = 0.0,
    dropout_key: DropoutKey | None = None,
    *,
    site: int = 0,
) -> Tensor:
    """softmax(Q Kᵀ / √D) V in every head of every sequence (Vaswani et al. 2017, 3.2).

    Args:
        query: float [R, H], heads side by side.
        key, value: float [T, H] each, heads side by side.
        queries: where each sequence's queries lie.
        keys: where each sequence's keys and values lie; the same sequences in the same order.
        num_heads: N.
        dropout_prob: of the attention probabilities, if there is a dropout key.
        dropout_key: of the queries' tokens.
        site: the dropout site of the first head; the others follow it.

    Returns:
        [R, H].
    """
    if isinstance(keys, PaddedLayout):
        return keys.attend(query, key, value, num_heads)
    assert isinstance(queries, Layout)
    drops = bool(dropout_prob) and dropout_key is not None
    if not drops and has_varlen_kernel(query, query.shape[1] // num_heads):
        return _attend_unpadded(query, key, value, queries, keys, num_heads)
    if keeps_scores(query.device.type, query.dtype, keys.max_length, drops=drops):
        with whole_on_cpu(query.device):
            out: Tensor = _AttendKeepingScores.apply(
                query, key, value, queries, keys, num_heads, dropout_prob, dropout_key, site
            )
        return out
    return _attend_padded(query, key, value, queries, keys, num_heads)


def takes_varlen(capability: tuple[int, int], dtype: torch.dtype, head_size: int) -> bool:
    """Whether flash attention takes sequences end to end, forward and back, on a CUDA device.

    Args:
        capability: the device's compute capability.
        dtype: of queries, keys and values.
        head_size: D.
    """
    if capability in _SMALL_SHARED_MEMORY and 192 < head_size <= 224:
        return False
    is_size = head_size % 8 == 0 and head_size <= 256
    return capability >= (8, 0) and dtype in (torch.float16, torch.bfloat16) and is_size


def has_varlen_kernel(query: Tensor, head_size: int) -> bool:
    """Whether flash attention takes sequences end to end, of queries like these."""
    if not query.is_cuda:
        return False
    # Not `get_device_capability`, which torch.compile cannot read while it traces.
    device = torch.cuda.get_device_properties(query.device)
    return takes_varlen((device.major, device.minor), query.dtype, head_size)


def keeps_scores(device_type: str, dtype: torch.dtype, max_length: int, *, drops: bool) -> bool:
    """Whether all probabilities are kept for the backward pass: [B, N, Q, L] of them."""
    is_known = dtype in (torch.float32, torch.float64, torch.bfloat16)
    return drops or (device_type == "cpu" and is_known and max_length <= _LONGEST_WITH_SCORES_KEPT)


def _attend_unpadded(
    query: Tensor, key: Tensor, value: Tensor, queries: Layout, keys: Layout, num_heads: int
) -> Tensor:
    """Flash attention over sequences end to end: CUDA only, and without dropout."""
    from torch.nn.attention.varlen import varlen_attn

    context = varlen_attn(
        query.unflatten(1, (num_heads, -1)),  # [R, N, D]
        key.unflatten(1, (num_heads, -1)),  # [T, N, D]
        value.unflatten(1, (num_heads, -1)),
        queries.cu_seqlens,
        keys.cu_seqlens,
        queries.max_length,
        keys.max_length,
    )
    assert isinstance(context, Tensor)  # a pair only where more is query_heads for
    return context.flatten(1)


def _attend_padded(
    query: Tensor, key: Tensor, value: Tensor, queries: Layout, keys: Layout, num_heads: int
) -> Tensor:
    """PyTorch's columns choice of kernel, on padded grids: any device, any length."""
    num_rows = len(query)
    query, key, value = (  # [B, N, Q, D], and [B, N, L, D] twice
        grid.unflatten(2, (num_heads, -1)).transpose(1, 2)
        for grid in (queries.pad(query), keys.pad(key), keys.pad(value))
    )
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=keys.attention_mask)
    return queries.unpad(context.transpose(1, 2).flatten(2), num_rows)


class _AttendKeepingScores(torch.autograd.Function):
    """Plain batched products whose probabilities are kept for the backward pass.

    On a CPU head by head, straight on the columns of the grid: no copy brings the heads apart or
    the gradients together, and at BERT's lengths it is quicker than PyTorch's kernel, which makes
    the probabilities anew. There products of bfloat16 are made in float32: what they are of all
    products is little, scores and probabilities keep their digits, and PyTorch's kernel took a
    quarter of a step. Elsewhere all heads at once, since there a kernel costs by the call.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        queries: Layout,
        keys: Layout,
        num_heads: int,
        dropout_prob: float,
        dropout_key: DropoutKey | None,
        site: int,
    ) -> Tensor:
        ctx.num_rows = len(query), len(key)
        # [B, Q, H], and [B, L, H] twice
        query, key, value = queries.pad(query), keys.pad(key), keys.pad(value)
        context = torch.empty_like(query, memory_format=torch.contiguous_format)
        kept = []
        at_once = heads_at_once(query.device, num_heads)
        for first, columns in columns_of_heads(query.shape[2], num_heads, at_once):
            query_heads, key_heads, value_heads = (
                apart(grid[..., columns], at_once) for grid in (query, key, value)
            )
            scores = _scaled_scores(query_heads, key_heads, keys.score_bias)  # [B * at_once, Q, L]
            probs = torch.softmax(scores, 2, out=scores)
            keeps = None
            if dropout_prob and dropout_key is not None:
                tokens = queries.pad(dropout_key.tokens[:, None]).squeeze(2)
                sites = range(site + first, site + first + at_once)
                keeps = keeps_of_heads(dropout_key, sites, tokens, keys.max_length, dropout_prob)
            found = torch.bmm(drop(probs, keeps, dropout_prob), value_heads)
            context[..., columns] = together(found, at_once)
            kept += [probs, keeps]
        ctx.save_for_backward(query, key, value, *kept)
        ctx.queries, ctx.keys = queries, keys
        ctx.num_heads, ctx.at_once, ctx.dropout_prob = num_heads, at_once, dropout_prob
        return queries.unpad(context, ctx.num_rows[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        queries: Layout = ctx.queries
        keys: Layout = ctx.keys
        at_once: int = ctx.at_once
        grad_context = queries.pad(grads[0])  # [B, Q, H]
        grad_query, grad_key, grad_value = (
            torch.empty_like(grid, memory_format=torch.contiguous_format)
            for grid in (query, key, value)
        )
        groups = columns_of_heads(query.shape[2], ctx.num_heads, at_once)
        for (_, columns), probs, keeps in zip(groups, kept[::2], kept[1::2], strict=True):
            grad, query_heads, key_heads, value_heads = (
                apart(grid[..., columns], at_once) for grid in (grad_context, query, key, value)
            )
            dropped = drop(probs, keeps, ctx.dropout_prob)
            grad_value[..., columns] = together(torch.bmm(dropped.transpose(1, 2), grad), at_once)
            grad_probs = torch.bmm(grad, value_heads.transpose(1, 2))
            grad_probs = drop(grad_probs, keeps, ctx.dropout_prob)
            # The gradient of a softmax: p * (dp - sum of p * dp over the row).
            along = torch.linalg.vecdot(grad_probs, probs).unsqueeze(2)
            grad_scores = grad_probs.sub_(along).mul_(probs)
            grad_scores *= grad.shape[2] ** -0.5
            grad_query[..., columns] = together(torch.bmm(grad_scores, key_heads), at_once)
            grad_key[..., columns] = together(
                torch.bmm(grad_scores.transpose(1, 2), query_heads), at_once
            )
        num_queries, num_keys = ctx.num_rows
        inputs = (
            queries.unpad(grad_query, num_queries),
            keys.unpad(grad_key, num_keys),
            keys.unpad(grad_value, num_keys),
        )
        return *inputs, *(None,) * 6


def keeps_of_heads(
    dropout_key: DropoutKey, sites: range, tokens: Tensor, width: int, probability: float
) -> Tensor:
    """What stays of the probabilities of the heads that have these sites: bool [B * N, Q, width].

    Args:
        dropout_key: of the tokens.
        sites: N of them.
        tokens: int64 [B, Q].
        width, probability: as in `DropoutKey.keeps`.
    """
    if len(sites) == 1:
        return dropout_key.keeps(sites.start, tokens, width, probability)
    return dropout_key.keeps_at_sites(sites, tokens, width, probability).flatten(0, 1)


def drop(probs: Tensor, keeps: Tensor | None, probability: float) -> Tensor:
    """`probs` or its gradient with what `keeps` leaves of it, scaled up; None keeps all."""
    return probs if keeps is None else (probs * keeps).mul_(scale_of_kept(probability))


def heads_at_once(device: torch.device, num_heads: int) -> int:
    """One on a CPU, whose caches hold no more; all of them elsewhere, where a call costs more."""
    return 1 if device.type == "cpu" else num_heads


def columns_of_heads(hidden: int, num_heads: int, at_once: int = 1) -> list[tuple[int, slice]]:
    """Of each so many heads the first, and the columns in which they lie."""
    size = hidden // num_heads
    firsts = range(0, num_heads, at_once)
    return [(first, slice(first * size, (first + at_once) * size)) for first in firsts]


def apart(columns: Tensor, heads: int) -> Tensor:
    """Each head by itself: [B, L, heads * D] → [B * heads, L, D]; of one head the same view."""
    columns = in_float32(columns)
    if heads == 1:
        return columns
    return columns.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)


def in_float32(columns: Tensor) -> Tensor:
    """In bfloat16 on a CPU: a copy in float32. Else as they are."""
    is_half_on_cpu = columns.device.type == "cpu" and columns.dtype == torch.bfloat16
    return columns.float() if is_half_on_cpu else columns


def together(apart: Tensor, heads: int) -> Tensor:
    """The way back: [B * heads, L, D] → [B, L, heads * D]."""
    return apart if heads == 1 else apart.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def _scaled_scores(query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    """Q Kᵀ / √D, −∞ where `bias` [B, 1, L] says: [G, Q, D], [G, L, D] → [G, Q, L].

    G is B, or as many times that as there are heads at once.
    """
    scale = query.shape[2] ** -0.5
    if bias is None:
        return torch.bmm(query, key.transpose(1, 2)).mul_(scale)
    heads = len(query) // len(bias)
    if heads > 1:
        bias = bias.expand(-1, heads, -1).flatten(0, 1)[:, None]
    return torch.baddbmm(bias.to(query.dtype), query, key.transpose(1, 2), alpha=scale)
