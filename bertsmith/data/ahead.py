"""Batches made ahead of time by a thread, so that a fast device never waits for the host."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

_NUM_AHEAD = 3


class BatchesAhead:
    """`Batches` with the next few steps under way; any step may be asked for, in any order.

    Batches come in pinned memory, from which a GPU copies while it computes. On a CPU a batch takes
    less than a hundredth of its step and both cores have work: there plain `Batches` serve better.
    """

    def __init__(self, make: Callable[[int], Any], *, pin_memory: bool) -> None:
        self._batches = make
        self._pin_memory = pin_memory
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._under_way: dict[int, Future[Any]] = {}

    def batch(self, step: int) -> Any:
        """The batch of `step`, as `Batches.batch` gives it."""
        wanted = range(step, step + 1 + _NUM_AHEAD)
        for other in set(self._under_way) - set(wanted):
            self._under_way.pop(other).cancel()
        for number in wanted:
            if number not in self._under_way:
                self._under_way[number] = self._pool.submit(self._make, number)
        return self._under_way.pop(step).result()

    def _make(self, step: int) -> Any:
        batch = self._batches(step)
        return batch.pin_memory() if self._pin_memory else batch

    def __enter__(self) -> BatchesAhead:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
