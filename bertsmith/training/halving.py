"""Smaller micro-batches where those of a step do not fit in a device's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bertsmith.batch import Batch
from bertsmith.errors import DeviceError
from bertsmith.training.parallel import Parallel


def with_what_fits(
    forward_and_backward: Callable[[Sequence[Batch]], Tensor],
    parallel: Parallel,
    batch: Batch,
    parts: Sequence[Batch],
    micro_batch: int,
    device: torch.device,
) -> tuple[Tensor, int]:
    """Call `forward_and_backward` with the micro-batches of `batch`; halve them if they do not fit.

    Args:
        forward_and_backward: given some micro-batches; gradients are added up.
        parallel: the model on its ranks, and the objective.
        batch: this rank's part of a step.
        parts: its micro-batches, of at most `micro_batch` tokens.
        micro_batch: tokens at once to begin with.
        device: where.

    Returns:
        What it gives, and the tokens at once that fitted.

    Raises:
        DeviceError: a sequence does not fit, or other ranks wait for what is half done.
    """
    while True:
        try:
            return forward_and_backward(parts), micro_batch
        except torch.OutOfMemoryError as error:
            if not parallel.can_halve or len(parts) == batch.num_sequences:
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
