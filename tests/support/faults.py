"""Training in processes that are killed, whose disks fail, and that are sent signals."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

KILL = -1

TINY = (
    "--max-length 24 --batch-size 16 --micro-batch 144 --min-frequency 2 --device cpu "
    "--num-hidden-layers 2 --hidden-size 16 --intermediate-size 32 --num-attention-heads 2 "
    "--hidden-dropout-prob 0.1 --attention-probs-dropout-prob 0.1 --quiet "
    "--checkpoint-every 3 --keep-checkpoints 2 --log-every 2 --validate-every 4"
).split()
STEPS = 10


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


def begin_arguments(corpus: Path, run: Path, steps: int = STEPS) -> list[str]:
    """What begins the run of these tests."""
    return ["pretrain", "--corpus", str(corpus), "--output", str(run), "--steps", str(steps), *TINY]


def resume_arguments(run: Path) -> list[str]:
    """What goes on with it."""
    return ["pretrain", "--resume", "--output", str(run), "--quiet"]


def points(calls: int, number: int) -> list[int]:
    """So many of the calls, from the first to the last."""
    if number >= calls:
        return list(range(1, calls + 1))
    return sorted({1 + round(i * (calls - 1) / (number - 1)) for i in range(number)})
