"""metrics.jsonl of a run: one object a line, each with its `step`.

Training lines have the losses of the objective (`mlm_loss`, `nsp_loss`), `learning_rate`,
`grad_norm` and the throughput, as means over the steps since the line before; validation lines have
`validation_…`; the last line of a finished run has `finished: true` and the run's closing figures.
A loss over no masked token is null. A line with `rolled_back_from` says that the loss diverged at
that step, that training went back to `step`, and which batch it left out.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import msgspec

from bertsmith.durable import write_text
from bertsmith.errors import RunError
from bertsmith.objectives import Term

METRICS_FILE = "metrics.jsonl"
ROLLED_BACK = "rolled_back_from"
_LONGEST_LINE = 2**16  # bytes

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
# Beyond float32, in which all figures are made; sums of these are finite in a picture, too.
_Figure = Annotated[float, msgspec.Meta(ge=-1e100, le=1e100)]


class _Line(msgspec.Struct):
    """What is read of a line, if it is there; JSON has no figure that is not finite."""

    step: _Count
    learning_rate: _Figure | None = None


class _Closing(msgspec.Struct):
    """What is read of the last line of a finished run, beside its losses."""

    tokens_per_second: _Figure
    peak_flops_per_second: _Figure
    share_of_peak: _Figure | None
    device: str
    sentence_pairs_per_second: _Figure | None = None
    segments_per_second: _Figure | None = None
    peak_memory_bytes: _Figure | msgspec.UnsetType = msgspec.UNSET
    max_length: _Count | None = None
    phase_seconds: dict[str, _Figure] | msgspec.UnsetType = msgspec.UNSET
    checkpoints_at_words: dict[str, _Count] | msgspec.UnsetType = msgspec.UNSET


def is_closing(line: dict[str, Any], terms: Iterable[Term]) -> bool:
    """Whether a line is the last one of a finished run, with all figures that are told of it.

    Args:
        line: as it was read.
        terms: of the run's objective.
    """
    try:
        _check_figures(line)
        closing = msgspec.convert(line, _Closing)
    except msgspec.ValidationError:
        return False
    is_judged = any(name.startswith("validation_") for name in line)
    has_losses = all(
        _has_loss(line, prefix + term.name, term)
        for term in terms
        for prefix in (("", "validation_") if is_judged else ("",))
    )
    has_rate = (closing.sentence_pairs_per_second, closing.segments_per_second) != (None, None)
    return line.get("finished") is True and has_losses and has_rate


def _has_loss(line: dict[str, Any], name: str, term: Term) -> bool:
    """Whether a loss is there, and the accuracy beside it; no masked token leaves them None."""
    loss, accuracy = line.get(f"{name}_loss"), line.get(f"{name}_accuracy", 0.0)
    if loss is None:
        return term.predicts_masked_tokens and f"{name}_loss" in line
    return accuracy is not None


def read_metrics(run: Path, *, about: int | None = None) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; what is none that a run writes is left out.

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
                    found.append(_decoded(line))
            number += is_training
    return found


def last_metrics(run: Path, *, length: int | None = None) -> dict[str, Any]:
    """The last line, without reading the others; empty if there is none, or it is not whole.

    Args:
        run: its folder.
        length: bytes of the file that are looked at; None: all.
    """
    try:
        path = run / METRICS_FILE
        if not path.is_file():  # a pipe would be waited for
            return {}
        with path.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END) if length is None else length
            begin = stream.seek(max(0, end - _LONGEST_LINE))
            lines = stream.read(end - begin).split(b"\n")
        return _decoded(lines[-2]) if len(lines) > 1 and not lines[-1] else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _decoded(line: bytes) -> dict[str, Any]:
    """A line. Raises: `ValueError` or `RecursionError` if a run does not write such a one."""
    found: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    msgspec.convert(found, _Line)
    _check_figures(found)
    return found


def _check_figures(line: dict[str, Any]) -> None:
    """Raise `msgspec.ValidationError` if a loss or an accuracy is anything else than a number."""
    for name, value in line.items():
        if name.endswith(("_loss", "_accuracy")):
            msgspec.convert(value, _Figure | None)


def _encoded(figures: Mapping[str, Any]) -> str:
    return json.dumps(figures, allow_nan=False) + "\n"


class MetricsFile:
    """Writes the lines; each is handed to the system as a whole.

    Args:
        run: its folder.

    Raises:
        RunError: there is something else than a file in its place.
        OSError: it cannot be written.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._rollbacks: list[tuple[int, int, Mapping[str, Any]]] = []
        """Lines of this process that say so, with the places in the file where they begin."""
        if (path := run / METRICS_FILE).exists() and not path.is_file():
            raise RunError(f"{path} must be a regular file; it is not. Remove it.")
        self._stream = (run / METRICS_FILE).open("ab", buffering=0)

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Add a line."""
        if ROLLED_BACK in figures:
            place = self._stream.seek(0, os.SEEK_END)
            self._rollbacks.append((place, step, figures))
        self._write_line({"step": step, **figures})

    def _write_line(self, figures: Mapping[str, Any]) -> None:
        line = _encoded(figures).encode("utf-8")
        while line:  # a disk that is nearly full takes a part, and refuses the rest
            line = line[self._stream.write(line) :]

    def flush(self) -> int:
        """Wait until all lines are on the disk; the length of the file in bytes."""
        os.fsync(self._stream.fileno())
        return self._stream.seek(0, os.SEEK_END)

    def cut(self, length: int, step: int) -> bool:
        """Remove what was written after a checkpoint, but for what this object said of rollbacks.

        A process that goes on after another rolls back once more where that one did, and says so.

        Args:
            length: bytes that there were at the checkpoint.
            step: the checkpoint's; no line that stays is of a later one.

        Returns:
            Whether these bytes are there. If not, all whole lines up to the step stay.
        """
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
        last = last_metrics(self._run, length=length)
        if present >= length and (not length or 0 <= last.get("step", -1) <= step):
            self._stream.truncate(length)
            return True
        lines = read_metrics(self._run)
        kept = [line for line in lines if line["step"] <= step and "finished" not in line]
        # In place of the old file when it is whole: a process that is killed loses no line.
        write_text(self._run / METRICS_FILE, "".join(map(_encoded, kept)))
        self._stream.close()
        self._stream = (self._run / METRICS_FILE).open("ab", buffering=0)
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
