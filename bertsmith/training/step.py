"""One optimizer step: micro-batches, the true mean loss, clipping, the update."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bertsmith.data.batches import Batch
from bertsmith.model.bert import Bert
from bertsmith.training.optimizer import Optimizers
from bertsmith.training.phases import Phase, unmeasured


class Losses(NamedTuple):
    """Sums over a global batch, on the host."""

    mlm: float
    """Over masked tokens, in nats."""
    nsp: float
    """Over pairs, in nats."""


class StepResult(NamedTuple):
    """What a step gives to the log; on the device, which may still be at work on it."""

    losses: Tensor
    """float32 [2]; sums over the batch of MLM and NSP loss."""
    grad_norm: Tensor
    """float32 []; before clipping."""
    is_finite: Tensor
    """bool []; False: a loss or a gradient was not finite, and the weights are as before."""


def train_step(
    model: Bert,
    optimizers: Optimizers,
    batch: Batch,
    *,
    micro_batch_size: int,
    max_grad_norm: float,
    dropout_key: int,
    device: torch.device,
    autocast: AbstractContextManager[Any],
    phase: Phase = unmeasured,
) -> StepResult:
    """Train `model` on one global batch; nothing in it waits for the device.

    The loss is the mean over all masked tokens of the batch plus the mean over all its pairs
    (invariant 3): every micro-batch divides its sums by the counts of the whole batch.

    Args:
        batch: on the host.
        micro_batch_size: sequences on the device at once; changes only memory, speed and rounding.
        max_grad_norm: 0 = no clipping.
        dropout_key: random bits of the step, 0 to 2**64 - 1.
        autocast: entered around each forward pass.
        phase: entered by name around the parts of the step.
    """
    sums = torch.zeros(2, device=device)
    for part in batch.split(micro_batch_size):
        with phase("forward"), autocast:
            losses = model.losses(part.to(device), dropout_key)
            loss = losses.mlm / max(batch.num_masked, 1) + losses.nsp / max(batch.num_pairs, 1)
        with phase("backward"):
            loss.backward()
        sums += torch.stack(losses).detach()
    with phase("optimizer"):
        parameters = [p for p in model.parameters() if p.grad is not None]
        grad_norm = torch.nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
        is_finite = torch.isfinite(sums.sum() + grad_norm)
        if max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, grad_norm)
        optimizers.step((~is_finite).float())
        optimizers.zero_grad()
    return StepResult(sums, grad_norm, is_finite)
