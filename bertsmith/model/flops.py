"""How much arithmetic training takes, and how fast the machine could do it at best."""

from __future__ import annotations

import statistics
import time

import torch

from bertsmith.config import ModelConfig
from bertsmith.model.device import wait_for

_SIZE = {"cpu": 2048, "mps": 4096, "cuda": 8192}
_MOST_SECONDS, _MOST_REPEATS = 0.5, 5


def training_flops(
    config: ModelConfig,
    vocab_size: int,
    *,
    num_tokens: int,
    num_squared: int,
    num_masked: int,
    num_sequences: int,
) -> int:
    """Floating-point operations of the matrix products of forward and backward passes.

    Real tokens only, the vocabulary at masked positions only; a multiply and an add are two, and a
    backward pass is two forward ones. What is no matrix product (softmax, norms) is not counted,
    nor is any product that is made twice.

    Args:
        num_tokens: T, padding left out.
        num_squared: the sum of the squared lengths, for attention.
        num_masked: M.
        num_sequences: B.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    linear = num_tokens * (4 * hidden**2 + 2 * hidden * inner)
    attention = 2 * num_squared * hidden
    head = num_masked * (hidden**2 + hidden * vocab_size)
    pooler = num_sequences * (hidden**2 + 2 * hidden)
    forward = config.num_hidden_layers * (linear + attention) + head + pooler
    return 2 * 3 * forward


def matrix_product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product: what nothing on this machine goes beyond by much.

    The median of some, within about half a second. Other work on the machine lowers it.
    """
    size = _SIZE[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds: list[float] = []
    began = time.perf_counter()
    torch.mm(left, right)  # not timed: the first one also makes threads and buffers
    while len(seconds) < _MOST_REPEATS and time.perf_counter() - began < _MOST_SECONDS:
        wait_for(device)
        start = time.perf_counter()
        torch.mm(left, right)
        wait_for(device)
        seconds.append(time.perf_counter() - start)
    if not seconds:
        return 2 * size**3 / (time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds)
