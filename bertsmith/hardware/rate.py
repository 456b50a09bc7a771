"""How fast the machine could train at best: the rate of a large matrix product."""

from __future__ import annotations

import time

import torch

from bertsmith.hardware.device import wait_for

_SIZE = {"cpu": 2048, "mps": 4096, "cuda": 8192}
_MOST_SECONDS, _MOST_REPEATS = 0.5, 5


def matrix_product_rate(
    device: torch.device, dtype: torch.dtype, *, seconds: float = _MOST_SECONDS
) -> float:
    """FLOP/s of a large square matrix product: what nothing on this machine goes beyond by much.

    The best of some, since other work on the machine lowers it.

    Args:
        device: where.
        dtype: of the matrices.
        seconds: most time that it may take, about.
    """
    size = _SIZE[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    most_repeats = _MOST_REPEATS * seconds / _MOST_SECONDS
    times: list[float] = []
    began = time.perf_counter()
    torch.mm(left, right)  # not timed: the first one also makes threads and buffers
    while len(times) < most_repeats and time.perf_counter() - began < seconds:
        wait_for(device)
        start = time.perf_counter()
        torch.mm(left, right)
        wait_for(device)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times, default=time.perf_counter() - began)
