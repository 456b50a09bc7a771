"""The events of a training run, and what is done with them: metrics.jsonl, the bar, the curves.

The trainer tells one stream of events to its observers and knows nothing of what they write. Only
the first rank has observers. What an observer raises ends the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith.display import Display
from bertsmith.extras import command_for, is_installed
from bertsmith.reporting.metrics_file import ROLLED_BACK, MetricsFile
from bertsmith.training.progress import Progress

_SECONDS_BETWEEN_PICTURES = 10.0
_PICTURE_SHARE = 0.02  # most of a run's time that drawing may take


@dataclass(frozen=True, kw_only=True)
class BeginEvent:
    """Training begins, resumes, or goes back to a checkpoint because the loss diverged."""

    progress: Progress
    """The state that training goes on from; whatever was told of later steps is void."""


@dataclass(frozen=True, kw_only=True)
class StepEvent:
    """A step after which metrics are due: every `log_every` steps, and after the last one."""

    step: int
    """Optimizer steps so far."""
    epoch: float
    """Passes over the training examples so far."""
    share_spent: float
    """The share of the budget that is spent, 0 to 1."""
    figures: Mapping[str, Any]
    """`mlm_loss` and of pairs `nsp_loss` (means over the steps since the event before; nats),
    `learning_rate`, `grad_norm` (of this step, before clipping), `pairs`, `tokens`, `seconds` (so
    far), and per second `tokens_per_second` and `sentence_pairs_per_second` or
    `segments_per_second`. `mlm_loss` is None where no token was masked."""
    is_stopping: bool
    """Whether a signal asked the run to end after this step: nothing slow should begin."""


@dataclass(frozen=True, kw_only=True)
class EvaluationEvent:
    """The held-out pairs were evaluated between two steps."""

    step: int
    """Optimizer steps so far."""
    figures: Mapping[str, Any]
    """`validation_…`, as `Evaluation.metrics` gives them."""


@dataclass(frozen=True, kw_only=True)
class RollbackEvent:
    """The loss diverged; the state of a checkpoint was restored, and a `BeginEvent` came before."""

    step: int
    """Optimizer steps at the checkpoint."""
    rolled_back_from: int
    """The step at which the loss diverged."""
    reason: str
    """What was seen, as a part of a sentence."""
    skipped_batch: int
    """The number of the batch that is left out from now on."""
    rollbacks: int
    """How many there have been, this one included."""


@dataclass(frozen=True, kw_only=True)
class CheckpointEvent:
    """A checkpoint is about to be saved: what was told before it is never told again."""

    progress: Progress
    """What is saved. An observer may set what is for observers: `metrics_bytes`, and an entry of
    `notes`, JSON, which the `BeginEvent` of a resumed run has again."""


@dataclass(frozen=True, kw_only=True)
class EndEvent:
    """The budget is spent, and the model is saved. A run that is stopped or fails has none."""

    step: int
    """Optimizer steps of the run."""
    figures: Mapping[str, Any]
    """The closing figures, those of the whole validation split among them."""


class Observer:
    """Is told what happens in a training run; each method does nothing unless it is overridden.

    The time that an observer takes is not counted as training time, but training waits for it.
    """

    def on_begin(self, event: BeginEvent) -> None:
        """Training begins or goes on, from the state in the event."""

    def on_step(self, event: StepEvent) -> None:
        """Metrics of training are due."""

    def on_evaluation(self, event: EvaluationEvent) -> None:
        """The held-out pairs were evaluated."""

    def on_rollback(self, event: RollbackEvent) -> None:
        """Training went back to a checkpoint."""

    def on_checkpoint(self, event: CheckpointEvent) -> None:
        """A checkpoint is about to be saved; what must not be lost then is written now."""

    def on_end(self, event: EndEvent) -> None:
        """The run is finished."""


class Observers(Observer):
    """Tells every event to several observers, one after the other.

    Args:
        observers: told in this order, but of the end in the reverse order.
    """

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = observers

    def on_begin(self, event: BeginEvent) -> None:
        for observer in self._observers:
            observer.on_begin(event)

    def on_step(self, event: StepEvent) -> None:
        for observer in self._observers:
            observer.on_step(event)

    def on_evaluation(self, event: EvaluationEvent) -> None:
        for observer in self._observers:
            observer.on_evaluation(event)

    def on_rollback(self, event: RollbackEvent) -> None:
        for observer in self._observers:
            observer.on_rollback(event)

    def on_checkpoint(self, event: CheckpointEvent) -> None:
        for observer in self._observers:
            observer.on_checkpoint(event)

    def on_end(self, event: EndEvent) -> None:
        for observer in reversed(self._observers):
            observer.on_end(event)


class MetricsWriter(Observer):
    """Writes metrics.jsonl: one line for each step event, evaluation, rollback, and for the end.

    It comes first among the observers: others read the file, and its last line says that the run
    is finished, so that it must be written last.

    Args:
        file: where to; the caller closes it.
        warn: says to the user that lines were lost.
    """

    def __init__(self, file: MetricsFile, warn: Callable[[str], None]) -> None:
        self._file, self._warn = file, warn

    def on_begin(self, event: BeginEvent) -> None:
        progress = event.progress
        if not self._file.cut(progress.metrics_bytes, progress.spent.step):
            self._warn("metrics.jsonl is not what it was at the checkpoint: lines of it are lost.")

    def on_step(self, event: StepEvent) -> None:
        self._file.write(event.step, event.figures)

    def on_evaluation(self, event: EvaluationEvent) -> None:
        self._file.write(event.step, event.figures)

    def on_rollback(self, event: RollbackEvent) -> None:
        figures = {
            ROLLED_BACK: event.rolled_back_from,
            "reason": event.reason,
            "skipped_batch": event.skipped_batch,
            "rollbacks": event.rollbacks,
        }
        self._file.write(event.step, figures)

    def on_checkpoint(self, event: CheckpointEvent) -> None:
        event.progress.metrics_bytes = self._file.flush()

    def on_end(self, event: EndEvent) -> None:
        self._file.write(event.step, {"finished": True, **event.figures})
        self._file.flush()


class ProgressBar(Observer):
    """Shows the share of the budget that is spent and the latest figures, inside `shown`."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._update: Callable[[float, int, Mapping[str, Any]], None] = lambda *_: None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar while what is inside runs."""
        with self._display.training() as self._update:
            yield

    def on_step(self, event: StepEvent) -> None:
        self._update(event.share_spent, event.step, event.figures)


class CurvesDrawer(Observer):
    """Draws curves.png and curves.svg from metrics.jsonl, now and then and at the end.

    In a notebook the picture is shown, too. It needs matplotlib, which takes most of a second to
    load: it is loaded here, once.

    Args:
        run: the run's folder.
        display: shows the picture, and says that it is being drawn.
    """

    def __init__(self, run: Path, display: Display) -> None:
        from bertsmith.reporting.curves import curves_png, save_curves

        self._run, self._display = run, display
        self._save, self._png = save_curves, curves_png
        self._next_time = time.monotonic() + _SECONDS_BETWEEN_PICTURES

    def on_step(self, event: StepEvent) -> None:
        if not event.is_stopping:
            self._draw_if_due()

    def on_evaluation(self, event: EvaluationEvent) -> None:
        self._draw_if_due()

    def on_end(self, event: EndEvent) -> None:
        closing = {"step": event.step, **event.figures}
        self._save(self._run, closing)
        self._display.plot(lambda: self._png(self._run, closing))

    def _draw_if_due(self) -> None:
        """Draw, unless the last time is so recent that drawing would take much of the run."""
        started = time.monotonic()
        if started < self._next_time:
            return
        with self._display.doing("drawing curves"):
            self._save(self._run)
            self._display.plot(lambda: self._png(self._run))
        cost = time.monotonic() - started
        self._next_time = time.monotonic() + max(_SECONDS_BETWEEN_PICTURES, cost / _PICTURE_SHARE)


def curves_drawer(run: Path, display: Display) -> list[Observer]:
    """What draws the curves, if matplotlib is installed; else it is said that nothing does."""
    if is_installed("curves"):
        return [CurvesDrawer(run, display)]
    display.warn(f"No curves are drawn; matplotlib draws them: {command_for('curves')}.")
    return []


@contextmanager
def writing_metrics(run: Path, display: Display, *others: Observer) -> Iterator[Observers]:
    """The observers of a run: metrics.jsonl, open meanwhile, and `others`."""
    with MetricsFile(run) as file:
        yield Observers([MetricsWriter(file, display.warn), *others])
