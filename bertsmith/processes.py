"""Processes: how many may run here, and that none outlives the one it works for."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

_SECONDS_BETWEEN_LOOKS = 0.2


def num_processors() -> int:
    """Processors that this process may use."""
    with contextlib.suppress(AttributeError, OSError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent(parent: int, seconds_to_stop: float = 0.0) -> None:
    """End this process soon after its parent died: whoever goes on must be alone.

    A thread looks, several times a second. The kernel's own means (`PR_SET_PDEATHSIG`) sends its
    signal when the thread ends that started the process, of which a launcher may have several.

    Args:
        parent: its process id. If it is not the parent's any more, it died before this call.
        seconds_to_stop: after a SIGTERM, which a run that trains ends with a checkpoint.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if seconds_to_stop:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(seconds_to_stop)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
