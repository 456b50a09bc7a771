"""The masked language modelling loss, without ever holding the logits of a whole batch.

Legend: M = masked tokens; H = hidden size; V = vocabulary; R = rows of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_LOGITS_AT_ONCE = 2**22  # elements: 16 MB in float32, which stays in a desktop's last-level cache


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Projection to the vocabulary and cross entropy, a chunk of rows at a time.

    The gradient is made in the forward pass, while a chunk's logits are still in cache; what is
    kept until the backward pass is [M, H] and [V, H], not [M, V].
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
        wants_grad = any(ctx.needs_input_grad)
        loss = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        # Sums over chunks are kept in float32: in bfloat16 each chunk would round the total.
        grads = (
            torch.empty_like(hidden),
            torch.zeros_like(weight, dtype=loss.dtype),
            torch.zeros_like(bias, dtype=loss.dtype),
        )
        rows = max(1, _LOGITS_AT_ONCE // len(weight))
        for start in range(0, len(hidden), rows):
            chunk, target = hidden[start : start + rows], labels[start : start + rows, None]
            logits = torch.addmm(bias, chunk, weight.t())  # [R, V]
            scores = torch.log_softmax(logits, dim=1, dtype=loss.dtype)
            loss -= scores.gather(1, target).sum()
            if wants_grad:
                error = scores.exp_()  # softmax minus one-hot: the gradient of the logits
                error.scatter_add_(1, target, error.new_full(target.shape, -1.0))
                grads[2].add_(error.sum(0))
                error = error.to(chunk.dtype)
                torch.mm(error, weight, out=grads[0][start : start + rows])
                if grads[1].dtype == chunk.dtype:
                    grads[1].addmm_(error.t(), chunk)
                else:
                    grads[1].add_(error.t() @ chunk)
        if wants_grad:
            ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale = grads[0]
        return (*(saved * scale.to(saved.dtype) for saved in ctx.saved_tensors), None)


def masked_lm_loss(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """Sum over all rows of −log softmax(hidden · weightᵀ + bias) at the label, in nats.

    The same value and gradients as `F.cross_entropy(..., reduction="sum")` of the full logits, up
    to rounding; memory grows with the chunk, not with M · V.

    Args:
        hidden: float [M, H]; masked positions only.
        weight: float [V, H]; the tied embedding matrix.
        bias: float [V].
        labels: int64 [M].

    Returns:
        float [] in at least float32; 0 if M = 0.
    """
    # Products in autocast's type, as a linear layer would have; sums and softmax in float32.
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), bias.to(dtype)
    with torch.autocast(device, enabled=False):
        loss: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, bias, labels)
    return loss


@torch.no_grad()
def count_correct(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """How many labels have the highest logit; arguments as in `masked_lm_loss`. int64 []."""
    rows = max(1, _LOGITS_AT_ONCE // len(weight))
    correct = labels.new_zeros(())
    for start in range(0, len(hidden), rows):
        logits = torch.addmm(bias, hidden[start : start + rows], weight.t())
        correct += (logits.argmax(1) == labels[start : start + rows]).sum()
    return correct
