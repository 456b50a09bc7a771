"""Batches made before they are asked for, by processes beside the one that trains."""

from __future__ import annotations

import atexit
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

from bertsmith.data.worker import Header, Memory, Worker, WorkerDied, pinned
from bertsmith.processes import num_processors

T = TypeVar("T")
_NUM_AHEAD = 3  # beside those that workers are at work on
_MOST_WORKERS = 8  # over a million pairs a second of small models (benchmarks/results/batches.md)
_FEW_PROCESSORS = 2


class BatchesAhead(Generic[T]):
    """`make(number)` of the next numbers, under way; any may be asked for, in any order.

    Several processes make whole batches; until the first of them is up, and where there are too few
    processors, a thread does. A worker that dies is told of by a warning, and its work is done by
    the others or by the thread: what comes out is always what `make` gives.

    On a CPU a batch takes less than a hundredth of its step and all cores have work: there plain
    `Batches` serve better.

    Args:
        make: gives a batch, or whatever is made of one, by its number, and the same each time. It
            must be possible to pickle it (of `Batches`, files are sent by their names), and what it
            gives.
        pin_memory: give the arrays of a batch in memory from which a GPU copies while it computes.
        num_workers: processes; None: by the processors and the ranks of this machine.
    """

    def __init__(
        self, make: Callable[[int], T], *, pin_memory: bool, num_workers: int | None = None
    ) -> None:
        self._num_workers = usual_num_workers() if num_workers is None else num_workers
        self._make = make
        self._pin_memory = pin_memory
        self._tasks: SimpleQueue[_Task[T] | None] = SimpleQueue()
        self._under_way: dict[int, Future[T]] = {}
        self._making = threading.Lock()
        """Held by the one thread that makes a batch: two would only get in each other's way."""
        self._changed = threading.Condition()
        """Of all below."""
        self._workers: list[Worker] = []
        self._num_up = 0
        self._num_lost = 0
        self._is_closed = False
        self._warnings: list[str] = []
        self._memory = Memory() if self._num_workers else None
        loops = [self._make_here]
        if self._memory is not None:
            header = self._memory.put(make)
            loops += [partial(self._make_there, header, self._memory)] * self._num_workers
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)  # for who leaves without

    def batch(self, number: int) -> T:
        """What `make(number)` gives or raises."""
        wanted = range(number, number + 1 + _NUM_AHEAD + self._num_workers)
        for other in set(self._under_way) - set(wanted):
            self._under_way.pop(other).cancel()
        for one in wanted:
            if one not in self._under_way:
                task = _Task[T](one)
                self._under_way[one] = task.future
                self._tasks.put(task)
        found = self._under_way.pop(number).result()
        while self._warnings:
            warnings.warn(self._warnings.pop(0), stacklevel=2)
        return found

    def wait_for_workers(self) -> None:
        """Return when all workers are up, or will never be."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_up + self._num_lost >= self._num_workers)

    def close(self) -> None:
        """End all workers at once, whatever they are at; nothing can be asked for any more."""
        atexit.unregister(self.close)
        with self._changed:
            was_closed, self._is_closed = self._is_closed, True
        if was_closed:
            return
        for future in self._under_way.values():
            future.cancel()
        for worker in self._workers:
            worker.process.kill()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        if self._memory is not None:
            self._memory.close()

    def __enter__(self) -> BatchesAhead[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _make_there(self, make: Header, memory: Memory) -> None:
        """Do tasks by a process of its own, as long as it lives."""
        try:
            with self._started(Worker(make, memory)) as worker:
                ask = partial(worker.make, pin_memory=self._pin_memory)
                while (task := self._tasks.get()) is not None and self._do(task, ask):
                    pass
        except WorkerDied as died:
            self._tell(died)
        self._make_here()

    @contextmanager
    def _started(self, worker: Worker) -> Iterator[Worker]:
        """It, when it is ready; ended afterwards."""
        with worker:
            with self._changed:
                self._workers.append(worker)
                if self._is_closed:
                    raise WorkerDied("is not needed any more")
            worker.wait_until_ready()
            self._count(1)
            try:
                yield worker
            finally:
                self._count(-1)

    def _count(self, change: int) -> None:
        with self._changed:
            self._num_up += change
            self._changed.notify_all()

    def _tell(self, died: WorkerDied) -> None:
        with self._changed:
            self._num_lost += 1
            if not self._is_closed:
                self._warnings.append(
                    f"A process that makes batches {died}: going on without it, maybe slower."
                )
            self._changed.notify_all()

    def _make_here(self) -> None:
        """Do tasks in this thread, as long as there is no process to do them."""
        while not (self._num_up or self._is_closed) and (task := self._tasks.get()) is not None:
            self._do(task, self._made_here)

    def _made_here(self, number: int) -> T:
        with self._making:
            made = self._make(number)
        return pinned(made) if self._pin_memory else made

    def _do(self, task: _Task[T], make: Callable[[int], T]) -> bool:
        """Do a task, if it is still wanted. False: the process died of it, and this one did it."""
        if task.future.set_running_or_notify_cancel():
            try:
                task.fulfil(make)
            except WorkerDied as died:
                self._tell(died)
                if not self._is_closed:
                    task.fulfil(self._made_here)
                return False
        return True


@dataclass(frozen=True)
class _Task(Generic[T]):
    number: int
    future: Future[T] = field(default_factory=Future)

    def fulfil(self, make: Callable[[int], T]) -> None:
        """Give to who waits what `make` gives or raises. Raises: `WorkerDied`."""
        try:
            found = make(self.number)
        except WorkerDied:
            raise
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(found)


def usual_num_workers(processors: int | None = None) -> int:
    """Processes that make batches, by the ranks of this machine that share its processors.

    Args:
        processors: of the machine; None: as many as this process may use.

    Returns:
        0 where there are too few, or no memory that can be shared: a thread serves there.
    """
    if not hasattr(os, "memfd_create"):  # of Linux
        return 0
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    share = (processors or num_processors()) // ranks
    return min(share - 1, _MOST_WORKERS) if share > _FEW_PROCESSORS else 0
