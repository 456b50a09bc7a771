"""One model on several ranks: how it is spread, and how gradients come together in eager steps.

DDP keeps all of it on every rank; FSDP2 (`fully_shard`) a part of each weight, gradient and moment.
Both take the mean of the ranks' gradients, and what is wanted is their sum, since a rank's loss is
its share of the global batch's (invariant 3): it is multiplied by the number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from bertsmith.architectures import Encoder
from bertsmith.batch import Batch
from bertsmith.objectives import Objective
from bertsmith.ranks import Ranks


class Parallel:
    """A model, its objective and its ranks; with one rank the plain model.

    Args:
        model: on `device`, the same on all ranks. FSDP changes it in place: its parameters are
            then `DTensor`s, which optimizers must be made of.
        objective: what it is trained on.
        ranks: who trains it.
        kind: "ddp" or "fsdp".
        device: where.
    """

    def __init__(
        self, model: Encoder, objective: Objective, ranks: Ranks, kind: str, device: torch.device
    ) -> None:
        self.model, self.objective = model, objective
        self.ranks = ranks
        self.is_sharded = ranks.size > 1 and kind == "fsdp"
        self._is_committed = False
        if self.is_sharded:
            _shard(model, ranks, device)

    @cached_property
    def _ddp(self) -> nn.Module | None:
        """Made when it is needed: compiled steps do without it."""
        if self.ranks.size == 1 or self.is_sharded:
            return None
        module = _Module(self.model, self.objective)
        return nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)

    def prepare(self) -> None:
        """Make what eager steps need; all ranks do it together, before one of them may fail."""
        _ = self._ddp

    @property
    def requires_lockstep(self) -> bool:
        """Whether every rank must go through the network equally often."""
        return self.is_sharded

    def forward(self, batch: Batch, dropout_key: int) -> tuple[Tensor, ...]:
        """What the objective makes of a micro-batch; see `Objective.of_part`."""
        if self._ddp is None:
            return self.forward_here(batch, dropout_key)
        return tuple(self._ddp(batch, dropout_key))

    def forward_here(self, batch: Batch, dropout_key: int) -> tuple[Tensor, ...]:
        """The same without DDP: the gradients of its backward pass are this rank's alone."""
        found: tuple[Tensor, ...] = self.model.call(self.objective.of_part, batch, dropout_key)
        return found

    @property
    def can_halve(self) -> bool:
        """Whether a step whose micro-batches do not fit may be made again with smaller ones: no
        other rank has taken part in it, or waits in a collective that this one has begun.
        """
        return not (self.is_sharded or self._is_committed)

    def commit(self) -> None:
        """From here on the step is made with the other ranks as it is."""
        self._is_committed = self.ranks.size > 1

    @contextmanager
    def accumulate(self, *, is_last: bool) -> Iterator[None]:
        """Around a micro-batch: gradients are reduced over the ranks after the last one alone."""
        if self._ddp is not None and not is_last:
            with self._ddp.no_sync():  # type: ignore[operator]
                yield
            return
        if self.is_sharded:
            sharded: Any = self.model
            sharded.set_requires_gradient_sync(is_last)
        yield

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Of a rank's share of the loss, inside `accumulate`."""
        if is_last and self._ddp is not None:
            self.commit()
        (loss * self.ranks.size).backward()

    def zero_grad(self) -> None:
        """Be ready for a step: no gradients; DDP's lie in what it sends, and stay there."""
        self._is_committed = False
        self.model.zero_grad(set_to_none=self._ddp is None)

    def sum(self, values: Tensor) -> Tensor:
        """`values`, on the device, added up over the ranks, in place."""
        if self.ranks.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def warm_up(self, batch: Batch) -> None:
        """Go through the network, and leave no gradient.

        DDP lays its buckets out anew after the first time, by the order in which gradients came,
        and the order of a sum depends on the layout: a resumed run must begin with the one that it
        had. After the second time gradients lie in them.

        Args:
            batch: on the device; a small one does.
        """
        for _ in range(2 if self._ddp is not None else 0):
            found = [part.sum() for part in self.forward(batch, 0)]
            (0.0 * torch.stack(found).sum()).backward()
            self.zero_grad()


class _Module(nn.Module):
    """DDP follows what is called as the module itself."""

    def __init__(self, model: Encoder, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch, dropout_key: int) -> tuple[Tensor, ...]:
        return self.objective.of_part(self.model, batch, dropout_key)


def _shard(model: Encoder, ranks: Ranks, device: torch.device) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (ranks.size,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    # The rest, too, is given back after a forward pass: one that validates has no backward pass.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(model, "call")
