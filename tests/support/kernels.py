"""What tests of several modules share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor


def halves(key_value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values that lie side by side: [T, 2 * H] → [T, H] twice."""
    key, value = key_value.chunk(2, 1)
    return key, value


def varlen_on_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    key_starts: Tensor,
    most: int,
    longest: int,
    window: int = -1,
) -> Tensor:
    """What the CUDA kernel computes, [R or T, N, D] each; its arguments are checked on the way."""
    assert starts.dtype == key_starts.dtype == torch.int32
    counts, lengths = starts.diff().tolist(), key_starts.diff().tolist()
    assert most >= max(counts) and longest >= max(lengths)
    assert (sum(counts), sum(lengths)) == (len(query), len(key)), "other rows come out undefined"
    found = []
    for parts in zip(query.split(counts), key.split(lengths), value.split(lengths), strict=True):
        asking, asked, given = (part.transpose(0, 1) for part in parts)
        may = may_attend(asking.shape[1], asked.shape[1], window)
        found.append(F.scaled_dot_product_attention(asking, asked, given, may).transpose(0, 1))
    return torch.cat(found)


def may_attend(num_queries: int, num_keys: int, window: int) -> Tensor:
    """Which of the keys of a sequence are within a window of each query: bool; −1: all."""
    if window < 0:
        return torch.ones(num_queries, num_keys, dtype=torch.bool)
    assert num_queries == num_keys, "windows are asked for where all tokens ask"
    places = torch.arange(num_keys)
    return (places[:, None] - places).abs() <= window


def window_of(given: tuple[Any, ...]) -> int:
    """The window among the arguments of an operator; −1 where there is none."""
    found = [x for x in given if isinstance(x, list | tuple) and len(x) == 2]
    left, right = found[0] if found else (-1, -1)
    assert left == right
    return int(left)


@contextmanager
def flash_on_cpu() -> Iterator[list[str]]:
    """Attention goes the way of CUDA's kernel; see `flash_kernels_on_cpu`."""
    with pytest.MonkeyPatch.context() as patch, flash_kernels_on_cpu() as called:
        for module in ("attention", "local_attention"):
            patch.setattr(f"bertsmith.nn.{module}.has_varlen_kernel", lambda *_: True)
        yield called


@contextmanager
def flash_kernels_on_cpu() -> Iterator[list[str]]:
    """The operators behind `varlen_attn` with kernels for a CPU, of whatever type; `attend` asks.

    What is left of PyTorch's own is all between: the call, the shapes that tracing goes by, and how
    the backward pass is found. Gives the names of those that were called.
    """
    import torch.nn.attention.varlen  # defines the operators

    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        starts: Tensor,
        key_starts: Tensor,
        *rest: Any,
        **named: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        called.append("forward")
        window = window_of((*rest, *named.values()))
        out = varlen_on_cpu(query, key, value, starts, key_starts, rest[0], rest[1], window)
        return out, query.new_zeros(query.shape[1::-1], dtype=torch.float32), torch.zeros(2)

    def backward(
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        sums: Tensor,
        starts: Tensor,
        key_starts: Tensor,
        *rest: Any,
        **named: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        called.append("backward")
        window = window_of((*rest, *named.values()))
        counts, lengths = starts.diff().tolist(), key_starts.diff().tolist()
        asking = (x.transpose(0, 1).split(counts, 1) for x in (grad, query, out))
        asked = (x.transpose(0, 1).split(lengths, 1) for x in (key, value))
        grads = []
        for g, q, o, k, v in zip(*asking, *asked, strict=True):  # [N, Q, D] and [N, L, D]
            scale = q.shape[2] ** -0.5
            may = may_attend(q.shape[1], k.shape[1], window)
            probs = torch.softmax((q @ k.mT * scale).masked_fill(~may, -torch.inf), 2)
            scores = probs * (g @ v.mT - (g * o).sum(2, keepdim=True)) * scale
            grads.append((scores @ k, scores.mT @ q, probs.mT @ g))
        dq, dk, dv = (torch.cat(parts, 1).transpose(0, 1) for parts in zip(*grads, strict=True))
        return dq.contiguous(), dk.contiguous(), dv.contiguous()

    called: list[str] = []
    with torch.library._scoped_library("torch_attn", "IMPL") as library:
        library.impl("_varlen_attn", forward, "CPU")
        library.impl("_varlen_attn_backward", backward, "CPU")
        yield called
