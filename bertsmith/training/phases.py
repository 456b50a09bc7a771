"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from bertsmith.hardware.device import wait_for

Phase = Callable[[str], AbstractContextManager[None]]
"""Gives a context to enter around the part of a step with that name."""


def unmeasured(name: str) -> AbstractContextManager[None]:
    """A `Phase` that does nothing."""
    return nullcontext()


class PhaseClock:
    """A `Phase` that adds up wall clock; it waits for the device at each end, which slows a GPU.

    Attributes:
        seconds: of each part so far, in the order in which they first came.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what runs inside as part `name`."""
        wait_for(self._device)
        began = time.perf_counter()
        yield
        wait_for(self._device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def parts(self, total_seconds: float) -> dict[str, float]:
        """Seconds of each part, and as `other` what of `total_seconds` falls to none."""
        other = max(total_seconds - sum(self.seconds.values()), 0.0)
        return {**self.seconds, "other": other}


def describe(parts: Mapping[str, float]) -> list[str]:
    """A table of what `PhaseClock.parts` gives."""
    total = max(sum(parts.values()), 1e-9)
    width = max(10, *map(len, parts))
    notes = {"forward": "  (the gradient of the vocabulary head is made there too)"}
    return [
        "where the time of the steps went:",
        *(
            f"  {name:{width}}{seconds:9.2f} s{seconds / total:8.1%}{notes.get(name, '')}"
            for name, seconds in parts.items()
        ),
    ]
