"""Evaluations of the held-out pairs during training, and whether there is time for one."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from bertsmith.config import TrainingConfig
from bertsmith.data.batches import Batches
from bertsmith.display import Display
from bertsmith.evaluation.held_out import Evaluation, evaluate
from bertsmith.hardware.device import autocast
from bertsmith.random_bits import Int64
from bertsmith.training.parallel import Parallel
from bertsmith.training.stop import Interrupted, StopRequest
from bertsmith.training.sums import Sums
from bertsmith.training.validation_time import ValidationTime


@dataclass(kw_only=True)
class Evaluator:
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
        """Whether an evaluation now leaves all of them within a tenth of the time.

        Args:
            timed: the steps so far, but for the first.
        """
        if not timed.num_sequences:  # the first step is no measure
            return False
        return self._time.allows_another(
            time.perf_counter() - self.started,
            pairs=min(self.config.validation_pairs, self.batches.num_examples),
            seconds_a_pair=timed.seconds / timed.num_sequences,
        )

    def run(self, micro_batch: int) -> Evaluation:
        """Evaluate the model, without dropout; afterwards it is in the training mode.

        Args:
            micro_batch: tokens at once.

        Raises:
            Interrupted: a signal came to one of the ranks; it is raised on all.
        """
        began = time.perf_counter()
        try:
            with (
                self.display.doing("validating") as show,
                autocast(self.device, self.config.precision),
            ):
                found = evaluate(
                    self.parallel.model,
                    self.parallel.objective,
                    self.batches,
                    device=self.device,
                    micro_batch=micro_batch,
                    ranks=self.parallel.ranks,
                    most_pairs=self.config.validation_pairs,
                    counts=self.word_counts,
                    progress=self._interruptible(show),
                )
        finally:
            self.parallel.model.train()
        ended = time.perf_counter()
        self._time.add(ended - began, ended - self.started)
        return found

    def _interruptible(self, show: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """`show`, which then raises `Interrupted` on every rank if a signal came to one of them."""

        def show_and_check(done: int, total: int) -> None:
            show(done, total)
            if number := int(self.parallel.ranks.gather([float(self.stop.by or 0)]).max()):
                raise Interrupted(signal.Signals(number))

        return show_and_check
