"""Runs on the device that the tests for a GPU use."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import bertsmith

Finding = Callable[[str], None]
"""What the fixture `finding` gives: it notes a line for the end of all tests."""

SHAPE: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
SHORT: dict[str, Any] = {"max_length": 64, "batch_size": 32}
LONG: dict[str, Any] = {"max_length": 256, "pairing": "filled", "batch_size": 16}
STEPS = 30


def settings_of(device: torch.device, **settings: Any) -> dict[str, Any]:
    usual = {"device": device.type, "steps": STEPS, "min_frequency": 2, "checkpoint_every": 100}
    return {**usual, **SHAPE, **settings}


def pretrain(corpus: Path, output: Path, device: torch.device, **settings: Any) -> Path:
    run = bertsmith.pretrain(corpus, output=output, quiet=True, **settings_of(device, **settings))
    return run.output


def digest(run: Path) -> str:
    """Of the weights that a run ended with."""
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


@contextmanager
def told_of_waiting(device: torch.device) -> Iterator[None]:
    """Inside, what makes the host wait for the GPU warns."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of itself: a prototype
        torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits_in(told: Iterable[warnings.WarningMessage]) -> Counter[str]:
    """How often which line waited for the GPU, by the warnings inside `told_of_waiting`."""
    return Counter(
        f"{Path(warning.filename).name}:{warning.lineno}"
        for warning in told
        if "synchronizing CUDA operation" in str(warning.message)
    )
