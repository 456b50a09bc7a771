"""Where to compute, in which precision, and how much at once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from bertsmith.config import ModelConfig
from bertsmith.errors import DeviceError

_TOKENS_AT_ONCE = {"cpu": 2**14, "cuda": 2**17, "mps": 2**15}
"""Most tokens of a micro-batch: on a CPU what its caches serve well."""

_ACTIVATIONS_AT_ONCE = 2**27
"""Most hidden values (tokens × layers × hidden size) of a micro-batch. Training keeps some
30 numbers for each: about 16 GB in float32 where this bound is met, less elsewhere."""


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


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """A context for the forward pass; bfloat16 products if asked for, or if auto on CUDA."""
    wants_bfloat16 = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if wants_bfloat16 else nullcontext()


def default_micro_batch_size(device: torch.device, config: ModelConfig, max_length: int) -> int:
    """Sequences at once when the user does not say: fewer, the larger the network."""
    activations = config.num_hidden_layers * config.hidden_size
    tokens = min(_TOKENS_AT_ONCE[device.type], _ACTIVATIONS_AT_ONCE // activations)
    return max(1, tokens // max_length)
