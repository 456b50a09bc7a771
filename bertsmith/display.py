"""What a run shows while it works: bars on a terminal and in a notebook, plain lines elsewhere.

All of it goes to standard error; standard output is for results (`show`, `show_json`).
"""

from __future__ import annotations

import html
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from bertsmith.errors import printable
from bertsmith.streams import LenientStream

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_BARS = 0.5
_WIDTH = len("validating 100%")


def show(text: str = "") -> None:
    """Print a result on standard output; line by line, with what is not visible escaped."""
    print("\n".join(map(printable, text.split("\n"))))  # noqa: T201


def show_json(result: object) -> None:
    """Print a result as one JSON object in one line of ASCII.

    Raises:
        ValueError: it holds NaN or an infinity, which JSON has no words for: say null.
    """
    print(json.dumps(result, allow_nan=False))  # noqa: T201


def shell_word(path: Path) -> str:
    """A path as a command that is said has it: quoted where it must be, all of it visible.

    What is not visible is escaped within `$'…'`, which bash and zsh read.
    """
    text = os.fspath(path)
    text = f"./{text}" if text.startswith("-") else text
    if printable(text) == text:
        return shlex.quote(text)
    known = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(map(_shell_escape, known)) + "'"


def _shell_escape(character: str) -> str:
    if printable(character) == character:
        return character
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


def result_console(*, soft_wrap: bool = False) -> Console:
    """What tables of results are printed on: standard output, of plain text.

    Args:
        soft_wrap: leave lines as long as they are.
    """
    return _Console(sys.stdout, soft_wrap=soft_wrap)


class _Console(Console):
    """Writes plain text: nothing in it is markup, an emoji's name, or speaks to a terminal.

    Args:
        stream: where to; whatever becomes of what is written there, no call fails.
        quiet: write nothing.
    """

    def __init__(
        self, stream: TextIO | None, *, quiet: bool = False, soft_wrap: bool = True
    ) -> None:
        super().__init__(
            file=cast(TextIO, LenientStream(stream)),
            quiet=quiet,
            soft_wrap=soft_wrap,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """What every string comes by, those in the cells of a table, too."""
        return super().render_str(printable(text), **options)


class Display:
    """Shows stages, training progress and messages.

    Args:
        quiet: show nothing but warnings.
        is_silent: show nothing at all, as where another process says it.
    """

    def __init__(self, *, quiet: bool = False, is_silent: bool = False) -> None:
        quiet = quiet or is_silent
        self._console = _Console(sys.stderr, quiet=quiet)
        self._warnings = _Console(sys.stderr) if quiet and not is_silent else self._console
        self._in_notebook = not quiet and "ipykernel" in sys.modules
        is_terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._is_live = is_terminal and not quiet and not self._in_notebook
        self._plot: object | None = None
        self._tell = _tell_nobody

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text)

    def warn(self, text: str) -> None:
        """The same, whether or not the rest is to be quiet."""
        self._warnings.print(text)

    @contextmanager
    def stage(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """A step of preparation; gives a function to tell how much is done, of how much (or 0)."""
        if not self._is_live:
            self.say(f"{title} …")
            yield lambda done, total: None
            return
        with self._bar(_text("fields[count]"), TimeElapsedColumn()) as bar:
            task = bar.add_task(printable(title), total=None, count="")

            def update(done: int, total: int) -> None:
                count = f"{done:,} / {total:,}" if total else f"{done:,}"
                bar.update(task, completed=done, total=total or None, count=count)

            yield update

    @contextmanager
    def training(self) -> Iterator[Callable[[float, int, Mapping[str, Any]], None]]:
        """The training bar; gives a function of progress (0 to 1), step, and the latest figures."""
        try:
            if self._in_notebook:
                yield self._notebook_bar()
                return
            if not self._is_live:
                yield self._training_lines()
                return
            columns = (TaskProgressColumn(), TimeRemainingColumn(), _Figures())
            with self._bar(*columns) as bar:
                task = bar.add_task(f"{'training':{_WIDTH}}", total=1.0, figures="")

                def update(progress: float, step: int, figures: Mapping[str, Any]) -> None:
                    bar.update(task, completed=progress, figures=_describe(step, figures))

                def tell(what: str, share: float | None) -> None:
                    what += "" if share is None else f" {share:.0%}"
                    bar.update(task, description=f"{what:{_WIDTH}}")

                self._tell = tell
                yield update
        finally:
            self._tell = _tell_nobody

    @contextmanager
    def doing(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """What is done between two steps; gives a function to tell how much is done, of how much.

        The training bar says it; lines do where it takes long.
        """
        self._tell(what, None)
        try:
            yield lambda done, total: self._tell(what, done / total)
        finally:
            self._tell("training", None)

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
            SpinnerColumn("line" if self._console.options.ascii_only else "dots"),
            _text("description"),
            BarColumn(bar_width=20),
            *columns,
            console=self._console,
            transient=True,
        )

    def _notebook_bar(self) -> Callable[[float, int, Mapping[str, Any]], None]:
        """A bar of HTML, in one output that is updated."""
        from IPython.display import HTML, display

        handle: Any = None
        spent, text, next_time = 0.0, "", 0.0

        def draw(what: str, *, is_last: bool = False) -> None:
            nonlocal handle, next_time
            if time.monotonic() < next_time and not is_last:
                return
            next_time = time.monotonic() + _SECONDS_BETWEEN_BARS
            bar = HTML(
                f'<progress value="{spent:.4f}" max="1" style="width: 20em" aria-label="training">'
                f"</progress> {spent:.0%} {html.escape(what)} {html.escape(text)}"
            )
            if handle is None:
                handle = display(bar, display_id=True)
            else:
                handle.update(bar)

        def update(progress: float, step: int, figures: Mapping[str, Any]) -> None:
            nonlocal spent, text
            spent, text = progress, _describe(step, figures)
            draw("training", is_last=progress >= 1)

        def tell(what: str, share: float | None) -> None:
            draw(what if share is None else f"{what} {share:.0%}", is_last=spent >= 1)

        self._tell = tell
        return update

    def _training_lines(self) -> Callable[[float, int, Mapping[str, Any]], None]:
        next_line = time.monotonic()

        def update(progress: float, step: int, figures: Mapping[str, Any]) -> None:
            nonlocal next_line
            if time.monotonic() >= next_line:
                self.say(f"{progress:4.0%}  {_describe(step, figures)}")
                next_line = time.monotonic() + _SECONDS_BETWEEN_LINES

        def tell(what: str, share: float | None) -> None:
            nonlocal next_line
            if share is not None and time.monotonic() >= next_line:
                self.say(f"      {what} {share:.0%}")
                next_line = time.monotonic() + _SECONDS_BETWEEN_LINES

        self._tell = tell
        return update


def _tell_nobody(what: str, share: float | None) -> None:
    """Where no training is shown, nobody asks what is done between its steps."""


class _Figures(ProgressColumn):
    """The latest figures, cut off where a terminal is narrow; the other columns are not."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=False))  # such a column gives way first

    def render(self, task: Task) -> Text:
        """In one line."""
        return Text(task.fields["figures"], no_wrap=True, overflow="ellipsis")


def _text(field: str) -> TextColumn:
    """What a bar has in this field, as it is: brackets in it are no markup."""
    return TextColumn(f"{{task.{field}}}", markup=False)


def _describe(step: int, figures: Mapping[str, Any]) -> str:
    losses = "".join(
        f"{name.removesuffix('_loss').upper()} {'–' if loss is None else f'{loss:.3f}'}  "
        for name, loss in figures.items()
        if name.endswith("_loss")
    )
    pairs, segments = (figures.get(f"{n}_per_second") for n in ("sentence_pairs", "segments"))
    rate = f"{segments:.0f} segments/s" if pairs is None else f"{pairs:.0f} pairs/s"
    return f"step {step:,}  {losses}{rate}"
