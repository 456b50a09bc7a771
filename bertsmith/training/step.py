"""One optimizer step: micro-batches, the true mean loss, clipping, the update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bertsmith.batch import Batch, Sizes
from bertsmith.errors import DeviceError
from bertsmith.model.shards import whole
from bertsmith.training.optimizer import Optimizers
from bertsmith.training.parallel import Parallel
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
    sizes: Sizes
    """Of the global batch."""
    micro_batch: int
    """Tokens at once that fitted."""


def train_step(
    parallel: Parallel,
    optimizers: Optimizers,
    batch: Batch,
    *,
    micro_batch: int,
    max_grad_norm: float,
    dropout_key: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    phase: Phase = unmeasured,
    heed: Callable[[], None] = lambda: None,
) -> StepResult:
    """Train on one global batch; nothing in it waits for the device.

    The loss is the mean over all masked tokens of the batch plus the mean over all its pairs
    (invariant 3): every micro-batch of every rank divides its sums by the counts of the whole.

    Args:
        parallel: the model on its ranks.
        optimizers: of its parameters.
        batch: this rank's part of it, on the host.
        micro_batch: tokens on the device at once; changes only memory, speed and rounding. Where
            they do not fit, half as many are tried.
        max_grad_norm: 0 = no clipping.
        dropout_key: random bits of the step, 0 to 2**64 - 1.
        autocast: makes the context of a forward pass.
        phase: entered by name around the parts of the step.
        heed: called before each micro-batch; what it raises leaves the weights as they were.

    Raises:
        DeviceError: one sequence alone does not fit, or other ranks wait for what is half done.
    """
    parts = batch.split(micro_batch)
    found = parallel.ranks.gather([*batch.sizes, len(parts), micro_batch])
    sizes = Sizes(*(int(number) for number in found[:, : len(Sizes._fields)].sum(0)))
    rounds = int(found[:, -2].max()) if parallel.works_in_step else None
    if found[:, -1].min() < micro_batch:  # what did not fit on one rank is not tried on another
        micro_batch = int(found[:, -1].min())
        parts = batch.split(micro_batch)
    while True:
        try:
            sums = _forward_and_back(
                parallel,
                parts,
                rounds or len(parts),
                sizes,
                dropout_key,
                device,
                autocast,
                phase,
                heed,
            )
            break
        except torch.OutOfMemoryError as error:
            if parallel.is_waited_for or len(parts) == batch.num_sequences:
                parallel.zero_grad()
                ranks = parallel.ranks
                whose = device.type if ranks.size == 1 else f"rank {ranks.rank} ({device.type})"
                raise DeviceError(
                    f"{micro_batch:,} tokens at once do not fit in the memory of {whose}; "
                    "lower --micro-batch, or give --recompute."
                ) from error
        # Not before the error is forgotten, which holds on to all that the pass had kept.
        parallel.zero_grad()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        micro_batch = max(1, micro_batch // 2)
        parts = batch.split(micro_batch)
    with phase("optimizer"):
        parallel.sum(sums)
        parameters = [p for p in parallel.model.parameters() if p.grad is not None]
        grad_norm = torch.nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
        if max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, grad_norm)
        grad_norm = whole(grad_norm)
        is_finite = torch.isfinite(sums.sum() + grad_norm)
        optimizers.step((~is_finite).float())
        parallel.zero_grad()
    return StepResult(sums, grad_norm, is_finite, sizes, micro_batch)


def _forward_and_back(
    parallel: Parallel,
    parts: Sequence[Batch],
    rounds: int,
    sizes: Sizes,
    dropout_key: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    phase: Phase,
    heed: Callable[[], None],
) -> Tensor:
    """Gradients of this rank's `parts`; float32 [2]: the sums of their losses.

    A rank that has fewer parts than `rounds` goes on with its last one for nothing.
    """
    sums = torch.zeros(2, device=device)
    for number in range(rounds):
        heed()
        part, share = parts[min(number, len(parts) - 1)], float(number < len(parts))
        is_last = number == rounds - 1
        with parallel.adding_up(is_last=is_last):
            with phase("forward"), autocast():
                losses = parallel.losses(part.to(device), dropout_key)
                loss = losses.mlm / max(sizes.num_masked, 1)
                loss = loss + losses.nsp / max(sizes.num_pairs, 1)
            with phase("backward"):
                parallel.backward(loss * share, is_last=is_last)
        sums += share * torch.stack(losses).detach()
    return sums
