"""Parameters that are spread over ranks (`DTensor`) and plain ones, used alike.

PyTorch's class is known by what it can do, since its module takes a while to import.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank holds a part of `tensor` only."""
    return hasattr(tensor, "full_tensor")


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of it, sharing its memory; all of a plain one."""
    if not is_sharded(tensor):
        return tensor
    local: Tensor = _as_any(tensor).to_local()
    return local


def whole(tensor: Tensor) -> Tensor:
    """All of it, on every rank; they must all ask."""
    if not is_sharded(tensor):
        return tensor
    full: Tensor = _as_any(tensor).full_tensor()
    return full


def whole_like(tensor: Tensor, part: Tensor) -> Tensor:
    """All of what the ranks have parts of, as they have them of `tensor`; all must ask."""
    if not is_sharded(tensor):
        return part
    from torch.distributed.tensor import DTensor

    spread = _as_any(tensor)
    joined = DTensor.from_local(
        part,
        spread.device_mesh,
        spread.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )
    return whole(joined)


def part_like(tensor: Tensor, value: Tensor) -> Tensor:
    """Of the whole `value`, which every rank has, the part that this one holds of `tensor`."""
    if not is_sharded(tensor):
        return value
    from torch.distributed.tensor import distribute_tensor

    spread = _as_any(tensor)
    # No rank sends: all of them have it.
    parts = distribute_tensor(value, spread.device_mesh, spread.placements, src_data_rank=None)
    return own_part(parts)


@torch.no_grad()
def put(tensor: Tensor, value: Tensor) -> None:
    """Set `tensor` to the whole `value`, which every rank has, maybe on another device."""
    own = own_part(tensor)
    own.copy_(part_like(tensor, value.to(own.device)))


def _as_any(tensor: Tensor) -> Any:
    return tensor
