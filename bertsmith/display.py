"""What a run shows while it works: bars on a terminal, plain lines elsewhere, a plot in a notebook.

All of it goes to standard error; standard output is for results (`show`, `show_json`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bertsmith.errors import printable

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_PICTURES = 10.0
_PICTURE_SHARE = 0.02  # most of a run's time that drawing may take


def show(text: str = "") -> None:
    """Print a result on standard output; line by line, with what is not visible escaped."""
    print("\n".join(map(printable, text.split("\n"))))  # noqa: T201


def show_json(result: object) -> None:
    """Print a result as one JSON object in one line of ASCII.

    Raises:
        ValueError: it holds NaN or an infinity, which JSON has no words for: say null.
    """
    print(json.dumps(result, allow_nan=False))  # noqa: T201


class _Console(Console):
    """What is computed does not depend on who reads: rich's own would end the process."""

    def on_broken_pipe(self) -> None:
        """Fall silent where the reader of a pipe left."""
        self.quiet = True


class Display:
    """Shows stages, training progress and messages.

    Args:
        quiet: show nothing but warnings.
        is_silent: show nothing at all, as where another process says it.
    """

    def __init__(self, *, quiet: bool = False, is_silent: bool = False) -> None:
        quiet = quiet or is_silent
        self._console = _Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._warnings = self._console
        if quiet and not is_silent:
            self._warnings = _Console(stderr=True, highlight=False, soft_wrap=True)
        self._in_notebook = not quiet and "ipykernel" in sys.modules
        self._is_live = self._console.is_terminal and not quiet and not self._in_notebook
        self._plot: object | None = None
        self._next_picture = time.monotonic() + _SECONDS_BETWEEN_PICTURES

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """The same, whether or not the rest is to be quiet."""
        self._warnings.print(text, markup=False)

    @contextmanager
    def stage(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """A step of preparation; gives a function to tell how much is done, of how much (or 0)."""
        if not self._is_live:
            self.say(f"{title} …")
            yield lambda done, total: None
            return
        with self._bar(TextColumn("{task.fields[count]}"), TimeElapsedColumn()) as bar:
            task = bar.add_task(title, total=None, count="")

            def update(done: int, total: int) -> None:
                count = f"{done:,} / {total:,}" if total else f"{done:,}"
                bar.update(task, completed=done, total=total or None, count=count)

            yield update

    @contextmanager
    def training(self) -> Iterator[Callable[[float, int, Mapping[str, Any]], None]]:
        """The training bar; gives a function of progress (0 to 1), step, and the latest figures."""
        if not self._is_live:
            yield self._training_lines()
            return
        columns = (
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
        )
        with self._bar(*columns) as bar:
            task = bar.add_task("training", total=1.0, figures="")

            def update(progress: float, step: int, figures: Mapping[str, Any]) -> None:
                bar.update(task, completed=progress, figures=_describe(step, figures))

            yield update

    def picture(self, draw: Callable[[], None], png: Callable[[], bytes]) -> None:
        """Draw the curves while the run goes on, if the last time is long enough ago.

        Args:
            draw: writes the pictures into the run's folder.
            png: the picture's bytes, for a notebook.
        """
        started = time.monotonic()
        if started < self._next_picture:
            return
        draw()
        self.plot(png)
        cost = time.monotonic() - started
        pause = max(_SECONDS_BETWEEN_PICTURES, cost / _PICTURE_SHARE)
        self._next_picture = time.monotonic() + pause

    def plot(self, png: Callable[[], bytes]) -> None:
        """In a notebook, show the picture in the place of the one before."""
        if not self._in_notebook:
            return
        from IPython.display import Image, display  # there, since a kernel of it runs this code

        image = Image(data=png())
        if self._plot is None:
            self._plot = display(image, display_id=True)
        else:
            self._plot.update(image)  # type: ignore[attr-defined]

    def _bar(self, *columns: ProgressColumn) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            *columns,
            console=self._console,
            transient=True,
        )

    def _training_lines(self) -> Callable[[float, int, Mapping[str, Any]], None]:
        next_line = time.monotonic()

        def update(progress: float, step: int, figures: Mapping[str, Any]) -> None:
            nonlocal next_line
            if time.monotonic() >= next_line:
                self.say(f"{progress:4.0%}  {_describe(step, figures)}")
                next_line = time.monotonic() + _SECONDS_BETWEEN_LINES

        return update


def _describe(step: int, figures: Mapping[str, Any]) -> str:
    nsp = f"NSP {figures['nsp_loss']:.3f}  " if "nsp_loss" in figures else ""
    mlm = "–" if figures["mlm_loss"] is None else f"{figures['mlm_loss']:.3f}"
    pairs, segments = (figures.get(f"{n}_per_second") for n in ("sentence_pairs", "segments"))
    rate = f"{segments:.0f} segments/s" if pairs is None else f"{pairs:.0f} pairs/s"
    return f"step {step:,}  MLM {mlm}  {nsp}{rate}"
