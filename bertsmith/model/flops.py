"""How much arithmetic training takes, and how fast the machine could do it at best."""

from __future__ import annotations

import time
from typing import Protocol

import torch

from bertsmith.batch import Batch
from bertsmith.config import ModelConfig
from bertsmith.model.device import wait_for

_SIZE = {"cpu": 2048, "mps": 4096, "cuda": 8192}
_MOST_SECONDS, _MOST_REPEATS = 0.5, 5


class Work(Protocol):
    """What the arithmetic of some batches goes by; `Batch` and `Sums` are such."""

    @property
    def num_tokens(self) -> int:
        """T, padding left out."""

    @property
    def num_squared(self) -> int:
        """The sum of the squared lengths, for attention."""

    @property
    def num_masked(self) -> int:
        """M."""

    @property
    def num_sequences(self) -> int:
        """B."""


def training_flops(config: ModelConfig, vocab_size: int, work: Work) -> int:
    """Floating-point operations of the model's matrix products, forward and backward.

    Real tokens only, the vocabulary at masked positions only; a multiply and an add are two, and a
    backward pass is two forward ones. What is no matrix product (softmax, norms) is not counted,
    nor is any product that is made twice. This is the work of the model as it is defined, all of
    its layers at all tokens: the measure of utilisation that others give, too. Training leaves out
    `skipped_flops` of it.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    linear = work.num_tokens * (4 * hidden**2 + 2 * hidden * inner)
    attention = 2 * work.num_squared * hidden
    head = work.num_masked * (hidden**2 + hidden * vocab_size)
    pooler = work.num_sequences * (hidden**2 + 2 * hidden)
    forward = config.num_hidden_layers * (linear + attention) + head + pooler
    return 2 * 3 * forward


def skipped_flops(config: ModelConfig, batch: Batch) -> int:
    """The part of `training_flops` that is left out: the last layer where no head reads it."""
    hidden, inner = config.hidden_size, config.intermediate_size
    read = [1 + number for number in batch.num_masked_each]
    tokens = batch.num_tokens - sum(read)
    scores = sum(length * (length - rows) for length, rows in zip(batch.lengths, read, strict=True))
    # Keys and values are still made of all tokens: two of the four square products.
    return 2 * 3 * (tokens * (2 * hidden**2 + 2 * hidden * inner) + 2 * scores * hidden)


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
