"""metrics.jsonl of a run: one object a line, each with its `step`.

Training lines have `mlm_loss`, `nsp_loss`, `learning_rate`, `grad_norm` and the throughput, as
means over the steps since the line before; validation lines have `validation_…`; the last line of a
finished run has `finished: true` and the run's closing figures. A loss over no masked token is
null. A line with `rolled_back_from` says that the loss diverged at that step, that training went
back to `step`, and which batch it left out.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bertsmith.errors import RunError

METRICS_FILE = "metrics.jsonl"
ROLLED_BACK = "rolled_back_from"
_LONGEST_LINE = 2**16  # bytes


def read_metrics(run: Path, *, about: int | None = None) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; what is no whole line with a step is left out.

    Args:
        run: its folder.
        about: how many training lines are enough, evenly spread over the run; None: all.
    """
    path = run / METRICS_FILE
    if not path.is_file():  # a pipe would be waited for
        return []
    found, every, number = [], 1, 0
    with path.open("rb") as stream:
        while line := stream.readline(_LONGEST_LINE):
            if not line.endswith(b"\n") or line.isspace():
                continue
            # A picture of a long run needs few of its lines, and taking all apart takes long.
            is_training = b'"learning_rate"' in line
            if is_training and not number and about:
                every = max(1, path.stat().st_size // len(line) // about)
            if not is_training or number % every == 0:
                with contextlib.suppress(ValueError, RecursionError):  # a line that was edited
                    found.append(json.loads(line))
            number += is_training
    return [line for line in found if _is_line(line)]


def last_metrics(run: Path) -> dict[str, Any]:
    """The last line, without reading the others; empty if there is none, or it is not whole."""
    try:
        path = run / METRICS_FILE
        if not path.is_file():  # a pipe would be waited for
            return {}
        with path.open("rb") as stream:
            length = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, length - _LONGEST_LINE))
            lines = stream.read().split(b"\n")
        found = json.loads(lines[-2]) if len(lines) > 1 and not lines[-1] else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if _is_line(found) else {}


def _is_line(value: Any) -> bool:
    """Whether it can be a line of a run, as far as what goes by its step must know."""
    return isinstance(value, dict) and type(value.get("step")) is int and value["step"] >= 0


class Metrics:
    """Where a run's lines go; these are not kept, as those of a rank that does not write."""

    def write(self, step: int, figures: dict[str, Any]) -> None:
        """Add a line."""

    def flush(self) -> int:
        """Wait until all lines are on the disk; how many bytes they are."""
        return 0

    def cut(self, length: int, step: int) -> bool:
        """Remove what was written after a checkpoint, but for what this object said of rollbacks.

        A process that goes on after another rolls back once more where that one did, and says so.

        Args:
            length: bytes that there were at the checkpoint.
            step: the checkpoint's; no line that stays is of a later one.

        Returns:
            Whether these bytes are there. If not, all whole lines up to the step stay.
        """
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


class MetricsFile(Metrics):
    """Writes the lines; each is handed to the system as a whole.

    Args:
        run: its folder.

    Raises:
        RunError: there is something else than a file in its place.
        OSError: it cannot be written.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._rollbacks: list[tuple[int, int, dict[str, Any]]] = []
        """Lines of this process that say so, with the places in the file where they begin."""
        if (path := run / METRICS_FILE).exists() and not path.is_file():
            raise RunError(f"{path} must be a regular file; it is not. Remove it.")
        self._stream = (run / METRICS_FILE).open("ab", buffering=0)

    def write(self, step: int, figures: dict[str, Any]) -> None:
        if ROLLED_BACK in figures:
            place = self._stream.seek(0, os.SEEK_END)
            self._rollbacks.append((place, step, figures))
        self._write_line({"step": step, **figures})

    def _write_line(self, figures: dict[str, Any]) -> None:
        line = (json.dumps(figures, allow_nan=False) + "\n").encode("utf-8")
        while line:  # a disk that is nearly full takes a part, and refuses the rest
            line = line[self._stream.write(line) :]

    def flush(self) -> int:
        os.fsync(self._stream.fileno())
        return self._stream.seek(0, os.SEEK_END)

    def cut(self, length: int, step: int) -> bool:
        later = [found for found in self._rollbacks if found[0] >= length]
        self._rollbacks = [found for found in self._rollbacks if found[0] < length]
        is_there = self._cut(length, step)
        kept = [] if is_there else read_metrics(self._run)
        for _, went_to, figures in later:
            if {"step": went_to, **figures} not in kept:
                self.write(went_to, figures)
        return is_there

    def _cut(self, length: int, step: int) -> bool:
        present = self._stream.seek(0, os.SEEK_END)
        if present >= length:
            self._stream.truncate(length)
            if not length or 0 <= last_metrics(self._run).get("step", -1) <= step:
                return True
        kept = [line for line in read_metrics(self._run) if line["step"] <= step]
        self._stream.truncate(0)
        for line in kept:
            self._write_line(line)
        return False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
