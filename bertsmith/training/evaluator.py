"""Evaluations of the held-out pairs during training, and whether there is time for one."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from bertsmith.config import TrainingConfig
from bertsmith.data.batches import Batches
from bertsmith.display import Display
from bertsmith.evaluation.held_out import Evaluation, evaluate
from bertsmith.hardware.device import autocast
from bertsmith.random_bits import Int64
from bertsmith.ranks import Ranks
from bertsmith.training.parallel import Parallel
from bertsmith.training.stop import Interrupted, StopRequest
from bertsmith.training.sums import Sums
from bertsmith.training.validation_time import ValidationTime


class Evaluated(Protocol):
    """What an evaluation found."""

    @property
    def is_finite(self) -> bool:
        """Whether all of it are finite numbers."""
        ...

    def metrics(self) -> Mapping[str, float | int | None]:
        """The figures by their names in metrics.jsonl."""
        ...


class Evaluator(Protocol):
    """What the trainer has evaluated on the way.

    Attributes:
        started: `time.perf_counter()` when this process began to train.
    """

    started: float

    def has_time(self, timed: Sums) -> bool:
        """Whether an evaluation now leaves all of them within a tenth of the time.

        Args:
            timed: the steps so far, but for the first.
        """
        ...

    def run(self, micro_batch: int) -> Evaluated:
        """Evaluate the model as it is now, without dropout.

        Args:
            micro_batch: tokens at once.

        Raises:
            Interrupted: a signal came to one of the ranks; it is raised on all.
        """
        ...


@dataclass(kw_only=True)
class HeldOutEvaluator:
    """Evaluates the same held-out pairs each time.

    Args:
        parallel: the model, on `device`, its objective and the ranks that share the work.
        batches: the fixed held-out pairs.
        config: the training section.
        device: where.
        stop: asked after each micro-batch whether to leave the evaluation.
        display: shows how far it is.
        word_counts: int64 [V]; of the training text, for what word frequencies alone would give.

    Attributes:
        started: `time.perf_counter()` when this process began to train.
    """

    parallel: Parallel
    batches: Batches
    config: TrainingConfig
    device: torch.device
    stop: StopRequest
    display: Display
    word_counts: Int64 | None
    started: float = 0.0
    _time: ValidationTime = field(default_factory=ValidationTime)

    def has_time(self, timed: Sums) -> bool:
        """See `Evaluator`."""
        if not timed.num_sequences:  # the first step is no measure
            return False
        return self._time.allows_another(
            time.perf_counter() - self.started,
            pairs=min(self.config.validation_pairs, self.batches.num_examples),
            seconds_a_pair=timed.seconds / timed.num_sequences,
        )

    def run(self, micro_batch: int) -> Evaluation:
        """See `Evaluator`; afterwards the model is in the training mode."""
        began = time.perf_counter()
        try:
            with self.display.doing("validating") as show:
                progress = interruptible(show, self.stop, self.parallel.ranks)
                found = self._evaluate(micro_batch, self.config.validation_pairs, progress)
        finally:
            self.parallel.model.train()
        ended = time.perf_counter()
        self._time.add(ended - began, ended - self.started)
        return found

    def evaluate_all(self, micro_batch: int) -> Evaluation:
        """Evaluate all of the held-out pairs."""
        with self.display.stage("Validating") as progress:
            return self._evaluate(micro_batch, None, progress)

    def _evaluate(
        self, micro_batch: int, most_pairs: int | None, progress: Callable[[int, int], None]
    ) -> Evaluation:
        with autocast(self.device, self.config.precision):
            return evaluate(
                self.parallel.model,
                self.parallel.objective,
                self.batches,
                device=self.device,
                micro_batch=micro_batch,
                ranks=self.parallel.ranks,
                most_pairs=most_pairs,
                counts=self.word_counts,
                progress=progress,
            )


def interruptible(
    show: Callable[[int, int], None], stop: StopRequest, ranks: Ranks
) -> Callable[[int, int], None]:
    """`show`, which then raises `Interrupted` on every rank if a signal came to one of them."""

    def show_and_check(done: int, total: int) -> None:
        show(done, total)
        if number := int(ranks.gather([float(stop.by or 0)]).max()):
            raise Interrupted(signal.Signals(number))

    return show_and_check
