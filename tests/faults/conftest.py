"""Training in processes that are killed, whose disks fail, and that are sent signals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bertsmith.report.metrics_file import read_metrics

HERE = Path(__file__).parent
KILL = -1

TINY = (
    "--max-length 24 --batch-size 16 --micro-batch 144 --min-frequency 2 --device cpu "
    "--num-hidden-layers 2 --hidden-size 16 --intermediate-size 32 --num-attention-heads 2 "
    "--hidden-dropout-prob 0.1 --attention-probs-dropout-prob 0.1 --quiet "
    "--checkpoint-every 3 --keep-checkpoints 2 --log-every 2 --validate-every 4"
).split()
STEPS = 10

_TIMES = ("seconds", "_per_second", "share_of_peak", "_memory_bytes")


@dataclass(frozen=True)
class Ended:
    """A process that ended."""

    status: int
    """Exit status; negative: the signal that killed it."""
    said: list[str]
    """Lines of its output and errors."""
    calls: int
    """System calls that changed something in the folder; 0 if it was killed."""
    megabytes: float
    """The most memory it held, libraries included."""


@dataclass
class Machine:
    """Starts `bertsmith` in processes of their own, one at a time, with faults."""

    logs: Path
    _server: subprocess.Popen[str]
    _numbers: Iterator[int] = field(default_factory=count)

    def begin(
        self,
        *arguments: str | Path,
        under: Path,
        at: int = 0,
        error: int = KILL,
        alarm: float = 0,
        streams: Mapping[int, str] | None = None,
    ) -> int:
        """Start `bertsmith` with these arguments; its process id.

        Args:
            under: the folder whose changes are counted.
            at: the number of the change at which the fault comes, from 1; 0: none.
            error: what the call fails with, for this and all later ones; or `KILL`.
            alarm: seconds until it is killed; 0: not.
            streams: what becomes of standard output (1) and error (2), as server.py says.
        """
        self._log = self.logs / f"{next(self._numbers)}.log"
        job = {
            "arguments": [str(argument) for argument in arguments],
            "log": str(self._log),
            "under": str(under),
            "at": at,
            "error": error,
            "alarm": alarm,
            "streams": streams or {},
        }
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return int(self._answer()["pid"])

    def end(self) -> Ended:
        """Wait for the process that was begun."""
        answer = self._answer()
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        calls = int(lines.pop().split()[1]) if lines and lines[-1].startswith("calls ") else 0
        said = [line for line in lines if line]
        return Ended(int(answer["status"]), said, calls, answer["kilobytes"] / 1024)

    def run(self, *arguments: str | Path, **fault: Any) -> Ended:
        """Both."""
        self.begin(*arguments, **fault)
        return self.end()

    def _answer(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the server of processes died"
        found: dict[str, Any] = json.loads(line)
        return found


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


@dataclass(frozen=True)
class Result:
    """What a run came to, without what depends on the clock."""

    weights: bytes
    metrics: list[dict[str, Any]]


def result_of(run: Path) -> Result:
    """Of a finished run."""
    metrics = [
        {name: value for name, value in line.items() if not name.endswith(_TIMES)}
        for line in read_metrics(run)
    ]
    return Result((run / "model" / "model.safetensors").read_bytes(), metrics)


def begin_arguments(corpus: Path, run: Path, steps: int = STEPS) -> list[str]:
    """What begins the run of these tests."""
    return ["pretrain", "--corpus", str(corpus), "--output", str(run), "--steps", str(steps), *TINY]


def resume_arguments(run: Path) -> list[str]:
    """What goes on with it."""
    return ["pretrain", "--resume", "--output", str(run), "--quiet"]


def wait_until(run: Path, lines: int) -> None:
    """Until a run under way has logged so many lines."""
    for _ in range(6000):
        if len(read_metrics(run)) >= lines:
            return
        time.sleep(0.01)
    raise AssertionError("the run logs nothing")


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
