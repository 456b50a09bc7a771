"""One optimizer step: micro-batches, the true mean loss, clipping, the update."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bertsmith.data.batches import Batch
from bertsmith.errors import DivergenceError
from bertsmith.model.bert import Bert


class Losses(NamedTuple):
    """Sums over a global batch, on the host."""

    mlm: float
    """Over masked tokens, in nats."""
    nsp: float
    """Over pairs, in nats."""


class StepResult(NamedTuple):
    """What a step gives to the log; tensors stay on the device."""

    losses: tuple[Tensor, Tensor]
    """float32 []; sums over the batch of MLM and NSP loss."""
    grad_norm: Tensor
    """float32 []; before clipping."""


def train_step(
    model: Bert,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    micro_batch_size: int,
    max_grad_norm: float,
    device: torch.device,
    autocast: AbstractContextManager[Any],
) -> StepResult:
    """Train `model` on one global batch.

    The loss is the mean over all masked tokens of the batch plus the mean over all its pairs
    (invariant 3): every micro-batch divides its sums by the counts of the whole batch.

    Args:
        batch: on the host.
        micro_batch_size: sequences on the device at once; changes only memory, speed and rounding.
        max_grad_norm: 0 = no clipping.
        autocast: entered around each forward pass.

    Raises:
        DivergenceError: a loss or a gradient is not finite; the weights are as before the step.
    """
    mlm = torch.zeros((), device=device)
    nsp = torch.zeros((), device=device)
    for part in batch.split(micro_batch_size):
        with autocast:
            losses = model.losses(part.to(device))
        loss = losses.mlm / max(batch.num_masked, 1) + losses.nsp / batch.num_sequences
        loss.backward()
        mlm += losses.mlm.detach()
        nsp += losses.nsp.detach()
    parameters = [p for p in model.parameters() if p.grad is not None]
    grad_norm = torch.nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
    if not torch.isfinite(mlm + nsp + grad_norm):
        optimizer.zero_grad()
        raise DivergenceError("The loss or its gradient is no longer a finite number")
    if max_grad_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return StepResult((mlm, nsp), grad_norm)
