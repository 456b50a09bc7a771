"""Gradient caching (Gao et al. 2021): a loss of a whole batch in the memory of a micro-batch.

The vectors of all sequences are made without gradients; the loss of them gives each vector its
gradient; then each micro-batch is made again, and its vectors hand theirs on to the weights. Where
dropout follows from counters (`nn/dropout.py`) both passes give the same vectors.

Legend: B = sequences of the global batch; H = size of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from bertsmith.batch import Batch, Sizes
from bertsmith.objectives import VectorObjective
from bertsmith.training.parallel import Parallel
from bertsmith.training.phases import Phase


def cached_forward_and_backward(
    parallel: Parallel,
    objective: VectorObjective,
    parts: Sequence[Batch],
    *,
    num_rounds: int,
    sizes: Sizes,
    first_sequence: int,
    dropout_key: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    phase: Phase,
    before_micro_batch: Callable[[], None],
) -> Tensor:
    """Gradients of this rank's `parts`; float32 [terms]: the sums of the losses.

    Args:
        objective: that of `parallel`.
        num_rounds: how often this rank goes through the network in a pass.
        first_sequence: how many sequences of the global batch the ranks before this one have.

    The others are those of `train_step`. Ranks but the first give sums of 0.
    """

    def losses_of(own: Tensor) -> tuple[Tensor, ...]:
        parallel.commit()  # the first pass fitted: nothing is sent twice
        labels = torch.cat([part.sequence_labels for part in parts]).to(device)
        labels = _of_all(parallel, labels, sizes.num_sequences, first_sequence)
        vectors = _of_all(parallel, own, sizes.num_sequences, first_sequence)
        return objective.losses_of(vectors, labels)

    def part_of(number: int) -> Batch:
        before_micro_batch()
        return parts[min(number, len(parts) - 1)].to(device)

    def vectors_with_gradients(number: int) -> Tensor:
        with phase("forward"), autocast():
            (found,) = parallel.forward(part_of(number), dropout_key)
        return found

    if num_rounds == 1 and parallel.ranks.size == 1:  # nothing is made twice
        losses = losses_of(vectors_with_gradients(0))
        with phase("backward"):
            parallel.backward(objective.loss(losses, sizes), is_last=True)
        return torch.stack(losses).detach()
    with phase("forward"), torch.no_grad(), autocast():
        call = parallel.model.call
        made = [call(objective.vectors, part_of(n), dropout_key) for n in range(num_rounds)]
    own = torch.cat(made[: len(parts)]).requires_grad_()
    losses = losses_of(own)
    (gradient,) = torch.autograd.grad(objective.loss(losses, sizes), own)
    gradients = gradient.split([part.num_sequences for part in parts])
    for number in range(num_rounds):
        share, is_last = float(number < len(parts)), number == num_rounds - 1
        with parallel.accumulate(is_last=is_last):
            found = vectors_with_gradients(number)
            with phase("backward"):
                product = (found * gradients[min(number, len(parts) - 1)]).sum()
                parallel.backward(share * product, is_last=is_last)
    return torch.stack(losses).detach() * float(parallel.ranks.is_first)


def _of_all(parallel: Parallel, own: Tensor, num_sequences: int, first: int) -> Tensor:
    """A row of each sequence of the global batch, rank after rank; gradients go to those of `own`.

    Args:
        own: [n, …], of the sequences of this rank.
        num_sequences: B.
        first: the place of the first of them.
    """
    if parallel.ranks.size == 1 or not len(own):  # sequences without labels
        return own
    found = own.new_zeros((num_sequences, *own.shape[1:]))
    found[first : first + len(own)] = own.detach()
    parallel.sum(found)  # each is a row and zeros: exact
    return torch.cat([found[:first], own, found[first + len(own) :]])
