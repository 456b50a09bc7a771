"""Who does the work: processes of this machine, or a Ray cluster. The store is the same."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Generator, Sequence
from itertools import islice
from typing import Any, Literal, TypeVar

from bertsmith.errors import BertsmithError, DataError
from bertsmith.extras import require
from bertsmith.processes import end_with_parent, num_processors

Engine = Literal["local", "ray"]
Result = TypeVar("Result")
_SECONDS_BETWEEN_LOOKS = 0.2
_LEAST_BYTES = 2**25  # under which starting processes takes longer than they save

Task = tuple[Any, ...]
"""The arguments of a call."""


def run_all(
    function: Callable[..., Result],
    tasks: Sequence[Task],
    *,
    engine: Engine = "local",
    processes: int | None = None,
    size: int | None = None,
    look: Callable[[], None] = lambda: None,
) -> Generator[Result, None, None]:
    """The results of `function` for all tasks, in whatever order they come.

    Args:
        function: of a module, with arguments that can be sent to another process.
        tasks: the arguments of each call.
        engine: where the calls are made.
        processes: of this machine; None: as many as it has processors.
        size: bytes of text that all calls work on; of a little, this process does it by itself.
        look: called several times a second meanwhile.

    Raises:
        DataError: a process died.
        MissingExtraError: Ray is not installed.
        BertsmithError, OSError: of a call; the others are given up.
    """
    if engine == "ray":
        return _on_ray(function, tasks)
    if processes is None and size is not None and size < _LEAST_BYTES:
        processes = 1
    processes = min(processes or num_processors(), len(tasks))
    if processes <= 1:
        return _alone(function, tasks, look)
    return _in_processes(function, tasks, processes, look)


def _alone(
    function: Callable[..., Result], tasks: Sequence[Task], look: Callable[[], None]
) -> Generator[Result, None, None]:
    ended = threading.Event()

    def keep_looking() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            look()

    watcher = threading.Thread(target=keep_looking, daemon=True)
    watcher.start()
    try:
        for task in tasks:
            yield function(*task)
    finally:
        ended.set()
        watcher.join()


def _in_processes(
    function: Callable[..., Result], tasks: Sequence[Task], processes: int, look: Callable[[], None]
) -> Generator[Result, None, None]:
    from concurrent.futures import FIRST_COMPLETED, wait

    # Not the standard library's: a script without `if __name__ == "__main__"` shall work, too, and
    # a process that the system kills must not be waited for.
    from loky import ProcessPoolExecutor
    from loky.process_executor import BrokenProcessPool

    threads = max(1, num_processors() // processes)
    pool = ProcessPoolExecutor(
        processes,
        initializer=end_with_parent,
        initargs=(os.getpid(),),
        env={"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": str(threads > 1)},
    )
    ended = False
    try:
        # A few at a time: what is sent waits in memory.
        coming = iter(tasks)
        running = {pool.submit(function, *task) for task in islice(coming, 2 * processes)}
        while running:
            done, running = wait(
                running, timeout=_SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED
            )
            look()
            for future in done:
                if (task := next(coming, None)) is not None:
                    running.add(pool.submit(function, *task))
                yield future.result()
        ended = True
    except BrokenProcessPool as error:
        raise DataError(
            "A process that prepared text died, as of lack of memory. What is finished is kept: "
            "run the same command again, maybe with fewer --processes."
        ) from error
    finally:
        pool.shutdown(wait=True, kill_workers=not ended)


def _on_ray(
    function: Callable[..., Result], tasks: Sequence[Task]
) -> Generator[Result, None, None]:
    require("ray", "--engine ray")
    import cloudpickle
    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # Pickled here and unpickled by our own processes: nothing of it comes from a text or a store.
    # A part is one row, and one task: rows are not gathered, so that each starts when it can.
    rows = [{"task": cloudpickle.dumps(task)} for task in tasks]

    def call(row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"result": cloudpickle.dumps(function(*cloudpickle.loads(row["task"])))}
        except (BertsmithError, OSError) as error:
            return {"result": cloudpickle.dumps(error)}

    data = ray.data.from_items(rows, override_num_blocks=max(len(rows), 1)).map(call)
    try:
        for row in data.iter_rows():
            result = cloudpickle.loads(row["result"])
            if isinstance(result, Exception):
                raise result
            yield result
    except ray.exceptions.RayError as error:
        raise DataError(
            f"Ray could not do the work: {str(error).strip().splitlines()[-1]} What is finished is "
            "kept: run the same command again."
        ) from error
