"""The masked language modelling loss, without ever holding the logits of a whole batch.

Legend: M = masked tokens; H = hidden size; V = vocabulary; R = rows of a chunk or a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.hardware.device import product_dtype, rounded_rows, rounds_rows

_LOGITS_AT_ONCE = 2**25
"""Most logits of a chunk (128 MB in float32): matrix products like it large."""

_LOGITS_IN_CACHE = 2**20
"""Logits of a block of a chunk (4 MB in float32): on a CPU what is done to them after the product
is bound by memory, and goes several times faster while they are in cache."""

_ROWS_OF_A_TILE = 64


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Projection to the vocabulary and cross entropy, a chunk of rows at a time.

    The gradient is made in the forward pass: one buffer holds a chunk's logits and then their
    gradient. What is kept until the backward pass is [M, H] and [V, H], not [M, V].
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
        wants_grad = any(ctx.needs_input_grad)
        ctx.weight_dtype, weight = weight.dtype, weight.to(hidden.dtype)
        # Sums over chunks are kept in float32: in bfloat16 each chunk would round the total.
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        loss = hidden.new_zeros((), dtype=dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight: Tensor | None = None
        grad_bias = torch.zeros_like(bias, dtype=dtype)
        rows = rows_of_chunk(len(hidden), len(weight))
        has_filler = rounds_rows(hidden.device, hidden.dtype)
        rows = rounded_rows(rows) if has_filler else rows
        buffer = hidden.new_empty(rows, len(weight))
        for start in range(0, len(hidden), rows):
            chunk = hidden[start : start + rows]
            logits = torch.mm(chunk, weight.t(), out=buffer[: len(chunk)])  # [R, V]
            target = labels[start : start + rows]
            if has_filler:
                target = target[target >= 0]
                logits[len(target) :] = 0
            for block, wanted in _blocks_in_cache(logits[: len(target)], target):
                exact = block.to(dtype)  # itself, if it has the digits
                exact += bias
                loss += _cross_entropy_(exact, wanted)
                grad_bias += exact.sum(0)
                if exact is not block:
                    block.copy_(exact)
            if wants_grad:
                torch.mm(logits, weight, out=grad_hidden[start : start + rows])
                grad_weight = _plus_product(grad_weight, logits.t(), chunk, dtype)
        if wants_grad:
            if grad_weight is None:
                grad_weight = torch.zeros_like(weight)
            ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale = grads[0]
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        # In place: these are nobody else's, and passes over [V, H] weigh beside the product.
        grad_weight = grad_weight.to(ctx.weight_dtype).mul_(scale)
        return grad_hidden.mul_(scale), grad_weight, grad_bias.mul_(scale), None


def masked_lm_loss(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """Sum over all rows of −log softmax(hidden · weightᵀ + bias) at the label, in nats.

    The same value and gradients as `F.cross_entropy(..., reduction="sum")` of the full logits, up
    to rounding; memory grows with the chunk, not with M · V.

    Args:
        hidden: float [M, H]; masked positions only.
        weight: float [V, H]; the tied embedding matrix.
        bias: float [V].
        labels: int64 [M]; on a CPU in bfloat16 the last of them may be -100: these rows are filler.

    Returns:
        float [] in at least float32; 0 if M = 0.
    """
    # Products in autocast's type, as a linear layer would have; sums and softmax in float32.
    device = hidden.device
    dtype = product_dtype(device, weight.dtype)
    hidden = hidden.to(dtype)
    with torch.autocast(device.type, enabled=False):
        loss: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, bias, labels)
    return loss


def whole_masked_lm_loss(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """The same loss from all logits at once, by plain operations: for `torch.compile` on a GPU.

    There the memory for [M, V] is at hand and a compiler fuses what follows the product. The cast
    of the matrix is padded to a multiple of 64 rows, without which a product in bfloat16 runs at a
    fraction of its rate.

    Args:
        hidden, weight, bias: as in `masked_lm_loss`.
        labels: int [M]; -100: the row is not scored.

    Returns:
        float32 [], in nats.
    """
    device = hidden.device
    dtype = product_dtype(device, weight.dtype)
    padding = -len(weight) % _ROWS_OF_A_TILE
    weight = F.pad(weight.to(dtype), (0, 0, 0, padding))
    bias = F.pad(bias.to(dtype), (0, padding), value=-math.inf)
    logits = F.linear(hidden.to(dtype), weight, bias)
    scores = logits.to(torch.promote_types(dtype, torch.float32))
    return F.cross_entropy(scores, labels.long(), reduction="sum")


@torch.no_grad()
def score_labels(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Each label's −log softmax(…), as `masked_lm_loss` adds them up, and whether it came first.

    Args:
        hidden, weight, bias, labels: as in `masked_lm_loss`.

    Returns:
        float32 [M], in nats, and bool [M].
    """
    rows = rows_of_chunk(len(hidden), len(weight))
    losses = hidden.new_empty(len(hidden), dtype=torch.float32)
    is_first = torch.empty_like(labels, dtype=torch.bool)
    parts = zip(losses.split(rows), is_first.split(rows), labels.split(rows), strict=True)
    for chunk, of_chunk in zip(hidden.split(rows), parts, strict=True):
        logits = F.linear(chunk, weight, bias)
        for block, loss, first, wanted in _blocks_in_cache(logits, *of_chunk):
            exact = block.to(torch.promote_types(block.dtype, torch.float32))
            loss.copy_(F.cross_entropy(exact, wanted, reduction="none"))
            # argmax gives the same and takes three to five times as long on a CPU.
            torch.eq(exact.max(1).indices, wanted, out=first)
    return losses, is_first


def rows_of_chunk(num_rows: int, vocab_size: int) -> int:
    """R: as few chunks as `_LOGITS_AT_ONCE` allows, all of about the same size."""
    most = max(1, _LOGITS_AT_ONCE // vocab_size)
    num_chunks = max(1, math.ceil(num_rows / most))
    return max(1, math.ceil(num_rows / num_chunks))


def _blocks_in_cache(logits: Tensor, *of_rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of `logits` and what belongs to them: on a CPU a few at a time, else all at once."""
    rows = len(logits)
    if logits.device.type == "cpu":
        rows = max(1, _LOGITS_IN_CACHE // logits.shape[1])
    return zip(*(each.split(rows) for each in (logits, *of_rows)), strict=True)


def _cross_entropy_(logits: Tensor, labels: Tensor) -> Tensor:
    """The summed cross entropy, float []; `logits` [R, V] become its gradient, in place."""
    labels = labels[:, None]
    top = logits.amax(1, keepdim=True)
    score = logits.gather(1, labels) - top
    torch.softmax(logits, 1, out=logits)
    # The largest probability is exp(0) / sum, which gives the sum without another pass of exp.
    loss = -(score + logits.amax(1, keepdim=True).log()).sum()
    logits.scatter_add_(1, labels, logits.new_full(labels.shape, -1.0))  # softmax minus one-hot
    return loss


def _plus_product(total: Tensor | None, left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """`total + left @ right`; of `dtype` as soon as it is a sum of several products."""
    if total is None:
        return left @ right
    if left.dtype == dtype:
        return total.addmm_(left, right)
    return total.to(dtype).add_(left @ right)
