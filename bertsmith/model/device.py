"""Where to compute, in which precision, and how much at once."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from bertsmith.config import ModelConfig
from bertsmith.errors import DeviceError

_TOKENS_AT_ONCE = {"cpu": 2**13, "cuda": 2**17, "mps": 2**15}
"""Most tokens of a micro-batch: on a CPU what its caches serve well."""

_ACTIVATIONS_AT_ONCE = 2**27
"""Most hidden values (tokens × layers × hidden size) of a micro-batch. Training keeps some
30 numbers for each: about 16 GB in float32 where this bound is met, less elsewhere."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # numbers of malloc.h


def choose_device(name: str) -> torch.device:
    """The device called `name` (auto, cpu, cuda, mps). Raises: `DeviceError` if it is not there."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    if not there.get(name, False):
        usable = " or ".join(kind for kind, is_there in there.items() if is_there)
        raise DeviceError(f"The device must be on this machine; {name} is not. Use {usable}.")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """As the closing line says it: `[cpu]`, `[cuda: NVIDIA H200]`."""
    if device.type == "cuda":
        return f"[cuda: {torch.cuda.get_device_name(device)}]"
    return f"[{device.type}]"


def compute_dtype(device: torch.device, precision: str) -> torch.dtype:
    """The type of matrix products: bfloat16 if asked for, or if `precision` is auto on CUDA."""
    wants_bfloat16 = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.bfloat16 if wants_bfloat16 else torch.float32


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """A context for the forward pass, with products in `compute_dtype`."""
    dtype = compute_dtype(device, precision)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def wait_for(device: torch.device) -> None:
    """Wait until `device` has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, instead of giving it back and asking anew.

    A step on a CPU frees and takes the same hundreds of megabytes again and again. glibc hands
    large blocks back to the system each time, and the next use of every 4 kB page of them is a
    fault, which on a virtual machine takes microseconds: up to a fifth of a step (see
    docs/experiments.md). The process then stays as large as it once was. Elsewhere than on Linux
    with glibc nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_MMAP_THRESHOLD, 2**30)


def default_micro_batch_size(device: torch.device, config: ModelConfig, max_length: int) -> int:
    """Sequences at once when the user does not say: fewer, the larger the network."""
    activations = config.num_hidden_layers * config.hidden_size
    tokens = min(_TOKENS_AT_ONCE[device.type], _ACTIVATIONS_AT_ONCE // activations)
    return max(1, tokens // max_length)
