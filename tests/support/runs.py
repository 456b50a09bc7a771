"""Runs of few steps: their settings, what is compared of them, and how they are left unfinished."""

from __future__ import annotations

import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import bertsmith
from bertsmith.errors import RunStopped
from bertsmith.reporting.metrics_file import read_metrics
from bertsmith.training.run import Run
from bertsmith.training.trainer import Trainer

TINY_RUN: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_length": 24,
    "batch_size": 16,
    "min_frequency": 2,
    "device": "cpu",
}


STILL: dict[str, Any] = {
    "steps": 1,
    "learning_rate": 1e-9,
    "muon_learning_rate": 1e-9,
    "weight_decay": 0.0,
    "quiet": True,
}
"""A run that ends where it begins."""


_TIMES = ("seconds", "_per_second", "share_of_peak", "_memory_bytes")


def blank(run: Path, closing: object = None) -> Figure:
    """In the place of the curves, which take a second to draw."""
    figure = Figure(figsize=(1, 1))
    FigureCanvasAgg(figure)
    return figure


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


def wait_for_lines(run: Path, number: int) -> None:
    """Until a run under way has logged so many lines."""
    for _ in range(6000):
        if len(read_metrics(run)) >= number:
            return
        time.sleep(0.01)
    raise AssertionError("the run logs nothing")


def pretrain(output: Path, corpus: Path | None = None, **settings: Any) -> Run:
    begin = {} if settings.get("resume") else {**TINY_RUN, "steps": 6, "checkpoint_every": 2}
    return bertsmith.pretrain(corpus, output=output, quiet=True, **{**begin, **settings})


def unfinish(run: Path) -> None:
    """Make it look as if it was killed after its last checkpoint."""
    metrics = run / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    shutil.rmtree(run / "model")


def stopped_and_resumed(
    corpus: Path, output: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> bertsmith.Run:
    """A run that a signal stops after its third step, and then goes on."""
    plain = Trainer._train_one_step

    def stopping(trainer: Trainer, *args: Any) -> None:
        if trainer.progress.spent.step == 3:
            trainer.stop.by = signal.SIGTERM
        plain(trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_one_step", stopping)
        with pytest.raises(RunStopped):
            bertsmith.pretrain(corpus, output=output, quiet=True, **settings)
    return bertsmith.pretrain(output=output, resume=True, quiet=True)
