"""Signals that ask a run to stop: from a terminal, a batch scheduler, a container's host.

SIGINT, SIGTERM, SIGUSR1 and SIGHUP let a checkpoint be written; a step or a validation under way is
left after a micro-batch, and done again by who goes on. A SIGINT after that, or any of them when
there is nothing left to save, leaves at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bertsmith.errors import RunStopped

_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
    if hasattr(signal, name)
]


class Interrupted(Exception):  # noqa: N818 (no error: somebody asked for it)
    """A signal came in the midst of what can be left and done again.

    Attributes:
        by: the signal.
    """

    def __init__(self, by: signal.Signals) -> None:
        super().__init__(f"interrupted by {by.name}")
        self.by = by


class StopRequest:
    """Whether one of the signals came.

    Attributes:
        by: the first one that came, or SIGTERM if that came at all; None: none came.
    """

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self._saves = True

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen inside; only the main thread can, and elsewhere nothing is changed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # One that is ignored, as under nohup, stays so.
        heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._handle) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def leave_at_once(self) -> None:
        """From here on there is nothing to save: raise `RunStopped` as soon as a signal comes."""
        self._saves = False
        self.raise_if_asked()

    def interrupt_if_asked(self) -> None:
        """Raise `Interrupted` if a signal came."""
        if self.by is not None:
            raise Interrupted(self.by)

    def raise_if_asked(self) -> None:
        """Raise `RunStopped` if a signal came."""
        if self.by is not None:
            raise RunStopped(self.by)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.by is None:
            self.by = signal.Signals(number)
            # Of a process without standard error, the descriptor may be any file's.
            if self._saves and number == signal.SIGINT and sys.stderr is not None:
                # Straight to the descriptor: a handler may come in the midst of another print.
                with contextlib.suppress(OSError):  # `| tee` dies of the same Ctrl-C
                    os.write(2, b"\nbertsmith: saving; Ctrl-C again leaves at once.\n")
        elif number == signal.SIGTERM:
            self.by = signal.SIGTERM
        if not self._saves:
            raise RunStopped(self.by)
