"""Telling a run's figures to trackers of experiments, which may fail, hang or be slow.

Each has a process of its own (`reporting/trackers.py`) that a thread writes to. What it is told are
the lines of metrics.jsonl: after a resume or a rollback all that are there, from the beginning.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from bertsmith.display import Display
from bertsmith.extras import require
from bertsmith.reporting.metrics_file import read_metrics
from bertsmith.training.observers import (
    BeginEvent,
    EndEvent,
    EvaluationEvent,
    Observer,
    RollbackEvent,
    StepEvent,
)

_MOST_WAITING = 100_000  # lines
_SECONDS_TO_END = 60.0
"""How long a finished run waits for a tracker that is still writing."""
_SECONDS_TO_STOP = 5.0
"""The same of one that a signal stopped, or that failed."""
_NO_FIGURES = ("step", "finished", "rolled_back_from")


def require_trackers(names: Sequence[str]) -> None:
    """Raise `MissingExtraError` if a tracker's library is not installed."""
    for name in names:
        require(name, f"--track {name}")


class Tracking(Observer):
    """Tells one tracker what happens. It comes after what writes metrics.jsonl.

    Args:
        kind: of `reporting.trackers.TRACKERS`.
        run: the run's folder.
        project: of the tracker.
        settings: of the run, by name.
        examples: what the finished model fills in, as Markdown; called at the end.
        display: a tracker that fails is said there, once.
    """

    def __init__(
        self,
        kind: str,
        run: Path,
        project: str,
        settings: Mapping[str, Any],
        examples: Callable[[], str],
        display: Display,
    ) -> None:
        self._kind, self._run, self._display = kind, run, display
        self._settings, self._examples = settings, examples
        self._queue: queue.Queue[str | None] = queue.Queue(_MOST_WAITING)
        self._has_failed = self._has_ended = self._is_finished = False
        # A file and not a pipe: who prints a lot does not wait for a reader.
        self._errors: IO[str] = tempfile.TemporaryFile(  # noqa: SIM115 (as long as the process)
            "w+", encoding="utf-8", errors="replace"
        )
        command = [sys.executable, "-m", "bertsmith.reporting.trackers", kind]
        self._process = subprocess.Popen(  # noqa: S603 (of this package)
            [*command, str(run.resolve()), project],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        threading.Thread(target=self._write, daemon=True).start()

    def on_begin(self, event: BeginEvent) -> None:
        lines: list[dict[str, Any]] = [{"begin": dict(self._settings)}]
        lines += [_told(line["step"], line) for line in read_metrics(self._run)]
        self._tell(*lines)  # one thing that waits, however long the run

    def on_step(self, event: StepEvent) -> None:
        self._tell_line(event.step, event.figures)

    def on_evaluation(self, event: EvaluationEvent) -> None:
        self._tell_line(event.step, event.figures)

    def on_rollback(self, event: RollbackEvent) -> None:
        self._tell_line(event.step, {"rollbacks": event.rollbacks})

    def on_end(self, event: EndEvent) -> None:
        self._tell_line(event.step, event.figures)
        self._is_finished = True
        try:
            text = "" if self._has_failed else self._examples()
        except Exception as error:  # whatever it is, the run is finished
            self._display.warn(f"The tracker {self._kind} gets no examples: {error}")
            return
        self._tell({"step": event.step, "name": "fills", "text": text})

    def close(self) -> None:
        """Let the tracker write what it was told, after all else of a run is written.

        It has longer for one that is finished: who goes on with another tells it all again.
        """
        self._end(_SECONDS_TO_END if self._is_finished else _SECONDS_TO_STOP)
        self._errors.close()

    def _end(self, seconds: float) -> None:
        """Wait for the tracker to write what it was told, and no longer than this."""
        if self._has_ended:
            return
        self._has_ended = True
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        with self._display.doing(f"handing figures to {self._kind}"):
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                self._fail(f"it did not end within {seconds:g} seconds")
        if self._process.returncode:
            self._fail(self._last_words())

    def _tell_line(self, step: int, figures: Mapping[str, Any]) -> None:
        self._tell(_told(step, figures))

    def _tell(self, *told: Mapping[str, Any]) -> None:
        if self._has_failed:
            return
        if self._process.poll() is not None:
            self._fail(self._last_words())
            return
        try:
            self._queue.put_nowait("".join(json.dumps(one) + "\n" for one in told))
        except queue.Full:
            self._process.kill()
            self._fail(f"it took none of the last {_MOST_WAITING:,} lines")

    def _write(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError), self._process.stdin as stream:
            while (line := self._queue.get()) is not None:
                stream.write(line)
                if self._queue.empty():
                    stream.flush()

    def _fail(self, reason: str) -> None:
        if not self._has_failed:
            self._display.warn(
                f"The tracker {self._kind} gets no more figures ({reason}). The run goes on, and "
                "metrics.jsonl has them all."
            )
        self._has_failed = True

    def _last_words(self) -> str:
        self._errors.seek(0)
        said = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return said[-1][:300] if said else f"it ended with status {self._process.returncode}"


def _told(step: int, figures: Mapping[str, Any]) -> dict[str, Any]:
    """A line of metrics.jsonl as a tracker is told it: its numbers."""
    numbers = {
        name: value
        for name, value in figures.items()
        if isinstance(value, int | float) and name not in _NO_FIGURES
    }
    return {"step": step, "figures": numbers}
