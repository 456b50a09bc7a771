"""Ranks whose launcher is gone: they end by themselves, and those that had none go on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertsmith.reporting.metrics_file import read_metrics
from tests.ranks.job import free_port, wait_for_port
from tests.support.ranks import begin, go_on, torchrun, workers
from tests.support.runs import wait_for_lines

LAUNCHER = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); input()"
"""Starts a process, says its number, and stays until it is killed."""


def is_alive(process: int) -> bool:
    """Whether it runs; one that has ended may wait for a parent that asks."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(process: int, seconds: float) -> bool:
    """Whether it ends in time."""
    until = time.monotonic() + seconds
    while is_alive(process) and time.monotonic() < until:
        time.sleep(0.05)
    return not is_alive(process)


@contextlib.contextmanager
def lonely_rank(corpus: Path, output: Path, **variables: str) -> Iterator[tuple[int, int]]:
    """A launcher and the first of two ranks, which waits for one that does not come."""
    port = free_port()
    own = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **variables}
    command = [sys.executable, "-c", LAUNCHER, sys.executable, "-m", "bertsmith"]
    with subprocess.Popen(
        [*command, *begin(corpus, output)],
        env={**os.environ, **own},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as launcher:
        assert launcher.stdout is not None
        rank = int(launcher.stdout.readline())
        try:
            wait_for_port(port)  # on which it listens for the others
            yield launcher.pid, rank
        finally:
            for process in (launcher.pid, rank):
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)


def test_a_rank_ends_with_its_launcher_before_all_have_met(text_file: Path, tmp_path: Path) -> None:
    with lonely_rank(text_file, tmp_path / "run", TORCHELASTIC_RUN_ID="one") as (launcher, rank):
        assert is_alive(rank)
        os.kill(launcher, signal.SIGKILL)
        assert wait_for(rank, 30), "an orphan"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_rank_that_was_started_by_hand_outlives_its_shell(
    text_file: Path, tmp_path: Path
) -> None:
    with lonely_rank(text_file, tmp_path / "run") as (launcher, rank):
        os.kill(launcher, signal.SIGKILL)
        assert not wait_for(rank, 3)


@pytest.mark.slow
def test_ranks_that_train_stop_with_a_checkpoint(text_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [*torchrun(2), *begin(text_file, folder, steps=100_000)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as job:
        wait_for_lines(folder, 10)
        ranks = workers(job.pid)
        assert len(ranks) == 2
        job.kill()
    assert all(wait_for(rank, 40) for rank in ranks.values()), "an orphan"
    steps = max(line["step"] for line in read_metrics(folder))
    last = max(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").iterdir())
    assert last >= steps
    more = ["--steps", str(last + 5)]
    subprocess.run(
        [sys.executable, "-m", "bertsmith", *go_on(folder, *more)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert read_metrics(folder)[-1]["finished"]
