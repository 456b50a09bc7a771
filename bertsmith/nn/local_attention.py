"""Self-attention to a window around each token, in blocks of the packed batch.

Tokens of all sequences lie end to end and are cut into blocks of one size, wherever sequences
begin; the queries of a block see its own tokens and a window on either side, and of those what is
of their sequence and near enough. So the cost grows with the number of tokens, there is no padding,
and nothing is copied to bring windows apart: they are overlapping views.

Legend: T = tokens; H = hidden size; N = heads; D = H / N; W = window; S = tokens of a block;
C = S + 2 W, those that a block sees; K = blocks.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.hardware.device import whole_on_cpu
from bertsmith.nn.attention import (
    apart,
    columns_of_heads,
    drop,
    has_varlen_kernel,
    heads_at_once,
    in_float32,
    keeps_of_heads,
    together,
)
from bertsmith.nn.dropout import DropoutKey
from bertsmith.nn.layout import Layout

_SMALLEST_BLOCK = 64


def seen_tokens(window: int) -> int:
    """C, of this window: the columns that the scores of a token have."""
    return _block(window) + 2 * window


def _block(window: int) -> int:
    return max(2 * window, _SMALLEST_BLOCK)


@cache
def has_windowed_kernel() -> bool:
    """Whether this PyTorch's attention over sequences end to end takes windows."""
    from torch.nn.attention.varlen import varlen_attn

    return "window_size" in inspect.signature(varlen_attn).parameters


@dataclass(frozen=True)
class Windows:
    """Which tokens of a packed batch may attend to which; made once a batch for all layers."""

    layout: Layout
    """How the sequences lie: T tokens, or fewer, with filler behind them."""
    num_rows: int
    """T."""
    window: int
    """W: tokens on either side."""
    has_kernel: bool = field(default_factory=has_windowed_kernel)
    """Asked when it is made, since what is compiled cannot ask."""

    @property
    def block(self) -> int:
        """S."""
        return _block(self.window)

    @property
    def num_blocks(self) -> int:
        """K."""
        return -(-self.num_rows // self.block)

    @cached_property
    def bias(self) -> Tensor:
        """float32 [K, S, C]: 0 where a query of a block may attend, else −∞."""
        num_blocks, block, window = self.num_blocks, self.block, self.window
        ends = self.layout.cu_seqlens[1:]
        places = torch.arange(num_blocks * block, device=ends.device, dtype=ends.dtype)
        # Filler, and what fills the last block, is as one more sequence.
        sequences = torch.searchsorted(ends, places, right=True)
        around = F.pad(sequences, (window, window), value=-1)
        seen = around.unfold(0, block + 2 * window, block)  # [K, C]
        apart = self._offsets
        may = (sequences.view(num_blocks, block, 1) == seen[:, None]) & (apart.abs() <= window)
        return torch.zeros(may.shape, device=ends.device).masked_fill_(~may, -torch.inf)

    @property
    def _offsets(self) -> Tensor:
        """How far each token that a block sees is behind each of its own: int64 [S, C]."""
        device = self.layout.cu_seqlens.device
        rows = torch.arange(self.block, device=device)[:, None]
        return torch.arange(self.block + 2 * self.window, device=device) - rows - self.window

    def queries(self, packed: Tensor) -> Tensor:
        """[T, H] → [K, S, H], zeros behind the last row."""
        filler = self.num_blocks * self.block - self.num_rows
        return F.pad(packed, (0, 0, 0, filler)).view(self.num_blocks, self.block, -1)

    def keys(self, packed: Tensor) -> Tensor:
        """[T, H] → [K + 1, S, H]: W rows further down, zeros around them."""
        filler = (self.num_blocks + 1) * self.block - self.num_rows - self.window
        padded = F.pad(packed, (0, 0, self.window, filler))
        return padded.view(self.num_blocks + 1, self.block, -1)

    def seen(self, keys: Tensor, heads: int) -> Tensor:
        """What each block sees: [K + 1, S, heads * D] → [K * heads, C, D]; of one head a view."""
        head_size = keys.shape[2] // heads
        size = (self.num_blocks, heads, self.block + 2 * self.window, head_size)
        of_block, of_row, of_column = keys.stride()
        strides = (of_block, head_size * of_column, of_row, of_column)
        return keys.as_strided(size, strides).flatten(0, 1)

    def add_up(self, grads: Tensor, out: Tensor, heads: int) -> None:
        """The way back of a gradient: [K * heads, C, D] added up in `out` [K + 1, S, heads * D]."""
        around = 2 * self.window
        grads = grads.unflatten(0, (-1, heads))
        by_head = out.unflatten(2, (heads, -1)).transpose(1, 2)  # [K + 1, heads, S, D]
        by_head[:-1] = grads[:, :, : self.block]
        by_head[-1] = 0
        by_head[1:, :, :around] += grads[:, :, self.block :]

    def rows_of_queries(self, blocks: Tensor) -> Tensor:
        """The way back: [K, S, H] → [T, H]."""
        return blocks.flatten(0, 1)[: self.num_rows]

    def rows_of_keys(self, blocks: Tensor) -> Tensor:
        """The way back: [K + 1, S, H] → [T, H]."""
        return blocks.flatten(0, 1)[self.window : self.window + self.num_rows]

    def keeps(self, dropout_key: DropoutKey, sites: range, probability: float) -> Tensor:
        """What stays of the probabilities of some heads: bool [K * heads, S, C].

        A token's random numbers go by how far the other token is, so that they are the same
        wherever blocks begin.
        """
        tokens = self.queries(dropout_key.tokens[:, None]).squeeze(2)  # [K, S]
        kept = keeps_of_heads(dropout_key, sites, tokens, 2 * self.window + 1, probability)
        columns = (self._offsets + self.window).clamp(0, 2 * self.window)
        return kept.gather(2, columns.expand(len(kept), -1, -1))


def attend_locally(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    windows: Windows,
    num_heads: int,
    dropout_prob: float = 0.0,
    dropout_key: DropoutKey | None = None,
    *,
    site: int = 0,
) -> Tensor:
    """softmax(Q Kᵀ / √D) V over each token's window, in every head (Beltagy et al. 2020, 3.1).

    Args:
        query, key, value: float [T, H] each, heads side by side.
        windows: of the T tokens.
        num_heads: N.
        dropout_prob: of the attention probabilities, if there is a dropout key.
        dropout_key: of the tokens.
        site: the dropout site of the first head; the others follow it.

    Returns:
        [T, H].
    """
    drops = bool(dropout_prob) and dropout_key is not None
    head_size = query.shape[1] // num_heads
    if not drops and windows.has_kernel and has_varlen_kernel(query, head_size):
        return _attend_unpadded(query, key, value, windows, num_heads)
    with whole_on_cpu(query.device):
        out: Tensor = _AttendInBlocks.apply(
            query, key, value, windows, num_heads, dropout_prob, dropout_key, site
        )
    return out


def _attend_unpadded(
    query: Tensor, key: Tensor, value: Tensor, windows: Windows, num_heads: int
) -> Tensor:
    """Flash attention over sequences end to end: CUDA only, and without dropout."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (rows.unflatten(1, (num_heads, -1)) for rows in (query, key, value))
    layout, window = windows.layout, windows.window
    places = (layout.cu_seqlens, layout.cu_seqlens, layout.max_length, layout.max_length)
    context = varlen_attn(query, key, value, *places, window_size=(window, window))
    assert isinstance(context, Tensor)  # a pair only where more is asked for
    return context.flatten(1)


class _AttendInBlocks(torch.autograd.Function):
    """Batched products, a block of a head each; probabilities are kept for the backward pass.

    In bfloat16 on a CPU the products are made in float32, as in `_AttendKeepingScores`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        windows: Windows,
        num_heads: int,
        dropout_prob: float,
        dropout_key: DropoutKey | None,
        site: int,
    ) -> Tensor:
        query, key, value = windows.queries(query), windows.keys(key), windows.keys(value)
        context = torch.empty_like(query)
        at_once = heads_at_once(query.device, num_heads)
        kept = []
        for number, columns in columns_of_heads(query.shape[2], num_heads, at_once):
            queries = apart(query[..., columns], at_once)
            keys, values = (in_float32(grid[..., columns]) for grid in (key, value))
            bias = windows.bias.to(queries.dtype)
            scores = torch.baddbmm(
                bias if at_once == 1 else bias.repeat_interleave(at_once, 0),
                queries,
                windows.seen(keys, at_once).transpose(1, 2),
                alpha=queries.shape[2] ** -0.5,
            )
            probs = torch.softmax(scores, 2, out=scores)
            keeps = None
            if dropout_prob and dropout_key is not None:
                sites = range(site + number, site + number + at_once)
                keeps = windows.keeps(dropout_key, sites, dropout_prob)
            found = torch.bmm(drop(probs, keeps, dropout_prob), windows.seen(values, at_once))
            context[..., columns] = together(found, at_once)
            kept += [probs, keeps]
        ctx.save_for_backward(query, key, value, *kept)
        ctx.windows, ctx.num_heads, ctx.dropout_prob = windows, num_heads, dropout_prob
        ctx.at_once = at_once
        return windows.rows_of_queries(context)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        windows: Windows = ctx.windows
        at_once: int = ctx.at_once
        grad_context = windows.queries(grads[0])
        grad_query, grad_key, grad_value = (torch.empty_like(grid) for grid in (query, key, value))
        groups = columns_of_heads(query.shape[2], ctx.num_heads, at_once)
        for (_, columns), probs, keeps in zip(groups, kept[::2], kept[1::2], strict=True):
            grad, queries = (apart(grid[..., columns], at_once) for grid in (grad_context, query))
            keys, values = (in_float32(grid[..., columns]) for grid in (key, value))
            dropped = drop(probs, keeps, ctx.dropout_prob)
            windows.add_up(torch.bmm(dropped.mT, grad), grad_value[..., columns], at_once)
            grad_probs = torch.bmm(grad, windows.seen(values, at_once).mT)
            grad_probs = drop(grad_probs, keeps, ctx.dropout_prob)
            # The gradient of a softmax: p * (dp - sum of p * dp over the row).
            along = torch.linalg.vecdot(grad_probs, probs).unsqueeze(2)
            grad_scores = grad_probs.sub_(along).mul_(probs)
            grad_scores *= grad.shape[2] ** -0.5
            of_queries = torch.bmm(grad_scores, windows.seen(keys, at_once))
            grad_query[..., columns] = together(of_queries, at_once)
            windows.add_up(torch.bmm(grad_scores.mT, queries), grad_key[..., columns], at_once)
        inputs = (
            windows.rows_of_queries(grad_query),
            windows.rows_of_keys(grad_key),
            windows.rows_of_keys(grad_value),
        )
        return *inputs, *(None,) * 5
