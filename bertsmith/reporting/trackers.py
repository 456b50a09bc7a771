"""Trackers of experiments, each in a process of its own: `python -m bertsmith.reporting.trackers`.

The process reads lines of JSON from standard input until it ends: {"begin": settings} begins a
history, in the place of the one before; {"step": …, "figures": {…}} and {"step": …, "name": …,
"text": …} add to it. So a tracker that hangs, fails or prints does so by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Tracker(ABC):
    """Where figures go.

    Args:
        run: the run's folder, whose name is that of the history.
        project: what it belongs to.
    """

    def __init__(self, run: Path, project: str) -> None:
        self.run, self.project = run, project

    @abstractmethod
    def begin(self, settings: Mapping[str, Any]) -> None:
        """Begin a history; that of this run from before is void."""

    @abstractmethod
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add figures; steps do not fall."""

    @abstractmethod
    def text(self, step: int, name: str, text: str) -> None:
        """Add a text, as Markdown."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is not written yet."""


class TensorBoard(Tracker):
    """Event files in the run's folder: `tensorboard --logdir runs`."""

    def begin(self, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = self.run / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder))
        rows = [f"| {name} | {value} |" for name, value in settings.items()]
        self.text(0, "settings", "\n".join(["| setting | value |", "|---|---|", *rows]))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        self._writer.add_text(name, text, step)

    def finish(self) -> None:
        self._writer.close()


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases in the group of the run's name; WANDB_MODE=offline writes files."""

    def begin(self, settings: Mapping[str, Any]) -> None:
        import wandb

        for old in (self.run / "wandb").glob("offline-run-*"):
            shutil.rmtree(old, ignore_errors=True)
        self._run = wandb.init(
            project=self.project,
            name=self.run.name,
            group=self.run.name,
            dir=str(self.run),
            config=dict(settings),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        import html

        import wandb

        self._run.log({name: wandb.Html(f"<pre>{html.escape(text)}</pre>")}, step=step)

    def finish(self) -> None:
        self._run.finish()


class Trackio(Tracker):
    """A run of Trackio, which keeps it on this machine: `trackio show`."""

    def begin(self, settings: Mapping[str, Any]) -> None:
        import trackio

        with contextlib.suppress(ValueError):  # there is no such project yet
            for old in trackio.Api().runs(self.project):
                if (old.config or {}).get("run_folder") == str(self.run):
                    old.delete()
        self._trackio = trackio
        trackio.init(
            project=self.project,
            name=self.run.name,
            config={**settings, "run_folder": str(self.run)},
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._trackio.log(dict(figures), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self._trackio.log({name: self._trackio.Markdown(text)}, step=step)

    def finish(self) -> None:
        self._trackio.finish()


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}


def main(kind: str, run: str, project: str) -> None:
    """Hand on what standard input says, until it ends."""
    # The run that writes to it decides when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tracker, has_begun = TRACKERS[kind](Path(run), project), False
    for line in sys.stdin:
        told = json.loads(line)
        if "begin" in told:
            if has_begun:
                tracker.finish()
            tracker.begin(told["begin"])
            has_begun = True
        elif "text" in told:
            tracker.text(told["step"], told["name"], told["text"])
        else:
            tracker.log(told["step"], told["figures"])
    if has_begun:
        tracker.finish()


if __name__ == "__main__":
    # What a library prints, also below Python, is nothing that a run says.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    main(*sys.argv[1:])
