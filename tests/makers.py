"""What the tests of batches ahead have made by other processes, which load this module alone."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bertsmith.errors import DataError


def of_all_kinds(number: int) -> dict[str, Any]:
    """Arrays of every kind that goes apart, and some that do not; told by their number."""
    draw = np.random.default_rng(number)
    values = draw.integers(0, 99, (5 + number % 7, 4))
    shared = torch.from_numpy(values)
    read_only = values.copy()
    read_only.flags.writeable = False
    return {
        "process": os.getpid(),
        "number": number,
        "text": ["none", {"nested": (number, shared)}],
        "the same again": shared,
        "bool": shared > 50,
        "bfloat16": shared.to(torch.bfloat16),
        "transposed": shared.T,
        "part": shared[1:3, ::2],
        "single": torch.tensor(number, dtype=torch.int32),
        "empty": torch.empty(0, 3),
        "with gradient": torch.ones(2, requires_grad=True),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "columns first": np.asfortranarray(values),
        "read only": read_only,
        "days": np.array(["2024-01-01"], dtype="datetime64[D]"),
        "records": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        "objects": np.array([None, number], dtype=object),
        "scalar": np.array(2.5),
        "empty array": np.empty((2, 0)),
        "buffer": bytearray(b"abc"),
        "large": np.full(1000 * (number % 5) ** 4, number),
    }


class TwoWordsError(Exception):
    """Pickled, and not to be unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


@dataclass(frozen=True)
class Maker:
    """Gives the process that makes it with each number; some numbers make trouble."""

    parent: int
    """Where no trouble is made."""
    table: np.ndarray[Any, Any]
    deadly: frozenset[int] = frozenset()

    def __call__(self, number: int) -> tuple[int, int, torch.Tensor]:
        if number == 13:
            raise DataError("no batch 13")
        if number == 14:
            raise TwoWordsError("no", "batch 14")
        if number in self.deadly and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        self.table[0] += 1  # scratch: of each process its own
        return number, os.getpid(), torch.from_numpy(self.table)


@dataclass(frozen=True)
class OnlyAtHome:
    """Cannot be loaded in another process."""

    parent: int

    def __reduce__(self) -> tuple[Any, ...]:
        return only_at, (self.parent,)

    def __call__(self, number: int) -> int:
        return number


def only_at(process: int) -> OnlyAtHome:
    if os.getpid() != process:
        raise ValueError("not here")
    return OnlyAtHome(process)
