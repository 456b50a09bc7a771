"""Jobs of several ranks, started without PyTorch's launcher: quicker, and with its variables."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# Its server loads what all ranks need once; it has computed nothing, so that it can be forked.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["bertsmith.training.pretrain", "tests.support.ranks", "tests.support.texts"]
)

LONGEST = 120.0
"""Seconds that a job may take."""


class Job:
    """Processes under way.

    Args:
        size: how many ranks.
        work: a function of a module, called on each rank.
        arguments: its arguments.
        logs: a folder; what rank R says goes to its file R.
        variables: of the environment, beside the launcher's.
    """

    def __init__(
        self,
        size: int,
        work: Callable[..., Any],
        *arguments: Any,
        logs: Path,
        variables: dict[str, str] | None = None,
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        launcher = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        launcher |= {"MASTER_PORT": str(free_port())} | (variables or {})
        self.processes: list[BaseProcess] = []
        for rank in range(size):
            own = {**launcher, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            log = logs / f"{rank}"
            process = _context.Process(target=_work, args=(own, log, work, arguments))
            process.start()
            self.processes.append(process)

    def end(self) -> list[int]:
        """Wait; the exit status of each rank, negative: the signal that killed it."""
        for process in self.processes:
            process.join(LONGEST)
        late = [process for process in self.processes if process.exitcode is None]
        for process in late:
            process.kill()
            process.join()
        assert not late, "a rank waits for ever"
        return [int(process.exitcode or 0) for process in self.processes]

    def said(self, rank: int) -> str:
        """Output and errors of a rank."""
        return (self._logs / f"{rank}").read_text()


def run(size: int, work: Callable[..., Any], *arguments: Any, logs: Path, **options: Any) -> Job:
    """A job that must end well."""
    job = Job(size, work, *arguments, logs=logs, **options)
    statuses = job.end()
    assert not any(statuses), "\n".join(job.said(rank) for rank in range(size))
    return job


def bertsmith(arguments: Sequence[str]) -> None:
    """The command line."""
    from bertsmith.cli.main import main

    main(arguments)


def _work(
    variables: dict[str, str], log: Path, work: Callable[..., Any], arguments: Sequence[Any]
) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(variables)
    import torch

    torch.set_num_threads(1)
    work(*arguments)
    sys.stdout.flush()


def wait_for_port(port: int) -> None:
    """Until somebody on this machine listens on it."""
    for _ in range(2400):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens on port {port}")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
