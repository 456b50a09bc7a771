"""One optimizer step: micro-batches, the true mean loss, clipping, the update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bertsmith.batch import Batch, Sizes
from bertsmith.nn.shards import whole
from bertsmith.objectives import VectorObjective
from bertsmith.training.gradient_cache import cached_forward_and_backward
from bertsmith.training.halving import with_what_fits
from bertsmith.training.optimizer import Optimizers
from bertsmith.training.parallel import Parallel
from bertsmith.training.phases import Phase, unmeasured


class StepResult(NamedTuple):
    """What a step gives to the log; on the device, which may still be at work on it."""

    losses: Tensor
    """float32 [terms of the objective]; sums over the batch."""
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
    before_micro_batch: Callable[[], None] = lambda: None,
) -> StepResult:
    """Train on one global batch; nothing in it waits for the device.

    The loss is the sum of the objective's terms, each a mean over all that it scores in the batch
    (invariant 3): every micro-batch of every rank divides its sums by the counts of the whole.

    Args:
        parallel: the model on its ranks, and the objective.
        optimizers: of its parameters.
        batch: this rank's part of it, on the host.
        micro_batch: tokens on the device at once; changes only memory, speed and rounding. Where
            they do not fit, half as many are tried.
        max_grad_norm: 0 = no clipping.
        dropout_key: random bits of the step, 0 to 2**64 - 1.
        autocast: makes the context of a forward pass.
        phase: entered by name around the parts of the step.
        before_micro_batch: called before each of them; what it raises leaves the weights as they
            were.

    Raises:
        DeviceError: a sequence does not fit, or other ranks wait for what is half done.
    """
    agreed = _agree(parallel, batch, micro_batch)
    objective = parallel.objective

    def forward_and_backward(parts: Sequence[Batch]) -> Tensor:
        how: dict[str, Any] = {
            "num_rounds": agreed.num_rounds or len(parts),
            "sizes": agreed.sizes,
            "dropout_key": dropout_key,
            "device": device,
            "autocast": autocast,
            "phase": phase,
            "before_micro_batch": before_micro_batch,
        }
        if isinstance(objective, VectorObjective):
            first = agreed.first_sequence
            return cached_forward_and_backward(
                parallel, objective, parts, first_sequence=first, **how
            )
        return _forward_and_backward(parallel, parts, **how)

    sums, micro_batch = with_what_fits(
        *(forward_and_backward, parallel, batch, agreed.parts, agreed.micro_batch, device)
    )
    with phase("optimizer"):
        return _update(parallel, optimizers, sums, max_grad_norm, agreed.sizes, micro_batch)


class _Agreed(NamedTuple):
    """What all ranks know of a step."""

    sizes: Sizes
    """Of the global batch."""
    first_sequence: int
    """How many sequences of it the ranks before this one have."""
    num_rounds: int | None
    """How often each rank goes through the network; None: as often as it has parts."""
    micro_batch: int
    """Tokens at once that fitted on all ranks so far."""
    parts: Sequence[Batch]
    """The micro-batches of this rank."""


def _agree(parallel: Parallel, batch: Batch, micro_batch: int) -> _Agreed:
    """Gather what the ranks must know of each other."""
    parallel.prepare()
    parts = batch.split(micro_batch)
    found = parallel.ranks.gather([*batch.sizes, len(parts), micro_batch])
    first = int(found[: parallel.ranks.rank, 0].sum())
    sizes = Sizes(*(int(number) for number in found[:, : len(Sizes._fields)].sum(0)))
    num_rounds = int(found[:, -2].max()) if parallel.requires_lockstep else None
    if found[:, -1].min() < micro_batch:  # what did not fit on one rank is not tried on another
        micro_batch = int(found[:, -1].min())
        parts = batch.split(micro_batch)
    return _Agreed(sizes, first, num_rounds, micro_batch, parts)


def _update(
    parallel: Parallel,
    optimizers: Optimizers,
    sums: Tensor,
    max_grad_norm: float,
    sizes: Sizes,
    micro_batch: int,
) -> StepResult:
    """Clip the gradients and update the weights, unless a loss or a gradient is not finite."""
    parallel.sum(sums)
    grad_norm, is_finite = clip_and_update(parallel.model, optimizers, sums, max_grad_norm)
    parallel.zero_grad()
    return StepResult(sums, grad_norm, is_finite, sizes, micro_batch)


def clip_and_update(
    model: nn.Module, optimizers: Optimizers, sums: Tensor, max_grad_norm: float
) -> tuple[Tensor, Tensor]:
    """Clip the gradients and update the weights, unless a loss or a gradient is not finite.

    Args:
        model: with gradients of the whole step.
        optimizers: of its parameters.
        sums: float32 [terms] or []; the losses of the step.
        max_grad_norm: 0 = no clipping.

    Returns:
        The norm of the gradients before clipping, float32 [], and whether all was finite, bool [].
    """
    parameters = [p for p in model.parameters() if p.grad is not None]
    grad_norm = torch.nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
    if max_grad_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, grad_norm)
    grad_norm = whole(grad_norm)
    is_finite = torch.isfinite(sums.sum() + grad_norm)
    optimizers.step((~is_finite).float())
    return grad_norm, is_finite


def _forward_and_backward(
    parallel: Parallel,
    parts: Sequence[Batch],
    *,
    num_rounds: int,
    sizes: Sizes,
    dropout_key: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    phase: Phase,
    before_micro_batch: Callable[[], None],
) -> Tensor:
    """Gradients of this rank's `parts`; float32 [terms]: the sums of their losses.

    A rank that has fewer parts than `num_rounds` repeats its last one, whose losses count nothing.
    """
    objective = parallel.objective
    sums = torch.zeros(len(objective.terms), device=device)
    for number in range(num_rounds):
        before_micro_batch()
        part, share = parts[min(number, len(parts) - 1)], float(number < len(parts))
        is_last = number == num_rounds - 1
        with parallel.accumulate(is_last=is_last):
            with phase("forward"), autocast():
                losses = parallel.forward(part.to(device), dropout_key)
                loss = objective.loss(losses, sizes)
            with phase("backward"):
                parallel.backward(loss * share, is_last=is_last)
        sums += share * torch.stack(losses).detach()
    return sums
