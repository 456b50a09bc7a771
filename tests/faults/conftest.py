"""Training in processes that are killed, whose disks fail, and that are sent signals."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import Machine, begin_arguments
from tests.support.runs import Result, result_of

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("faults are injected by a preloaded library: Linux and a C compiler are needed")
    folder = tmp_path_factory.mktemp("machine")
    library = folder / "faults.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "faults.c", "-ldl"], check=True
    )
    root = str(HERE.parents[1])
    with subprocess.Popen(
        [sys.executable, HERE / "server.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": root},
    ) as server:
        yield Machine(folder, server)
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture(scope="session")
def whole(
    machine: Machine, text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, int, int]:
    """The run that nothing disturbed; its system calls in all, and under checkpoints/."""
    runs = tmp_path_factory.mktemp("undisturbed")
    ended = [
        machine.run(*begin_arguments(text_file, runs / name), under=runs / name / part)
        for name, part in (("a", ""), ("b", "checkpoints"))
    ]
    assert [run.status for run in ended] == [0, 0], ended
    first, second = result_of(runs / "a"), result_of(runs / "b")
    assert first == second, "the run must be the same each time before anything can be said"
    return first, ended[0].calls, ended[1].calls
