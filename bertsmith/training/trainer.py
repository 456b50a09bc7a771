"""The trainer: optimizer steps until the budget is spent, with evaluations and checkpoints between.

Where the loss diverges, training goes back to the last checkpoint and leaves the batch out. What
happens is told to an observer (`observers.py`), which writes metrics and draws.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from bertsmith.batch import BatchSource
from bertsmith.config import TrainingConfig
from bertsmith.data.ahead import BatchesAhead
from bertsmith.display import Display
from bertsmith.errors import DivergenceError, RunError, RunStopped
from bertsmith.random_bits import Stream, random_bits
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.averaging import WeightAverage
from bertsmith.training.budget import Budget, Spent, is_due
from bertsmith.training.checkpoint import Checkpoints, restore
from bertsmith.training.divergence import Diverged, has_finite_weights
from bertsmith.training.engine import Engine
from bertsmith.training.evaluator import Evaluator
from bertsmith.training.initial import FirstWeights
from bertsmith.training.observers import (
    BeginEvent,
    CheckpointEvent,
    EvaluationEvent,
    Observer,
    RollbackEvent,
    StepEvent,
)
from bertsmith.training.optimizer import rate_share
from bertsmith.training.parallel import Parallel
from bertsmith.training.pending import PendingLosses
from bertsmith.training.phases import Phase, unmeasured
from bertsmith.training.progress import Progress
from bertsmith.training.selection import Selection
from bertsmith.training.stop import Interrupted, StopRequest
from bertsmith.training.sums import Sums
from bertsmith.training.word_marks import WordMarks

EVALUATIONS_A_RUN = 10
CHECKPOINTS_A_RUN = 4
_MOST_PENDING = 64  # steps that a GPU is given before their losses are read; each keeps its batch


@dataclass(frozen=True, kw_only=True)
class _Due:
    """What is due after a step."""

    metrics: bool
    evaluation: bool
    checkpoint: bool

    @property
    def needs_losses(self) -> bool:
        """Whether the losses of all steps so far are needed for it."""
        return self.metrics or self.evaluation or self.checkpoint


@dataclass(kw_only=True)
class Trainer:
    """A training run in progress.

    Args:
        parallel: the model, on `device`, and the ranks that train it.
        first_weights: where the run begins; None: nothing goes back behind its checkpoint.
        batches: of the training split; this rank's part of them.
        evaluator: evaluates the model on the way; None: nothing is held out.
        tokenizer: saved with every checkpoint.
        config: the training section.
        observer: is told of steps, evaluations, checkpoints and rollbacks.
        checkpoints: of the run's folder; the first rank's are written.
        stop: asked after each step whether to end here.
        display: has warnings, and says what is done between two steps.
        device: where.
        engine: makes the steps; it has the optimizers.
        word_marks: after how many words a checkpoint is kept; None: after none.
        selection: which evaluation's checkpoint is kept; None: the newest ones are.
        evaluations: how many there are in a run, about, if settings do not say how often.
        reproducibility_settings: those that a resumed run must have, too.
        phase: measures the parts of a step.
    """

    parallel: Parallel
    first_weights: FirstWeights | None
    batches: BatchSource
    evaluator: Evaluator | None
    tokenizer: Tokenizer
    config: TrainingConfig
    observer: Observer
    checkpoints: Checkpoints
    stop: StopRequest
    display: Display
    device: torch.device
    engine: Engine
    word_marks: WordMarks | None = None
    selection: Selection | None = None
    evaluations: int = EVALUATIONS_A_RUN
    reproducibility_settings: dict[str, Any] = field(default_factory=dict)
    phase: Phase = unmeasured
    progress: Progress = field(default_factory=Progress)
    _origin: float = 0.0
    """When training would have begun, had it gone on without a break."""
    _saved_step: int = -1
    """The last one that this process began a checkpoint of."""

    def __post_init__(self) -> None:
        self.model, self.ranks = self.parallel.model, self.parallel.ranks
        self.average = WeightAverage(self.model, self.config)
        self._budget = Budget.of(self.config, self.batches.num_examples)
        self._pending = PendingLosses(self.parallel.objective, self.config.spike_factor)

    @property
    def seconds(self) -> float:
        """Of the steps that this process made."""
        return self._pending.seconds

    @property
    def share_spent(self) -> float:
        """Of the budget, at most 1."""
        return self._budget.progress(self.progress.spent)

    def begin(self, checkpoint: Path | None) -> None:
        """Restore `checkpoint`, or the beginning of the run if it is None.

        Raises:
            ModelError: the checkpoint is not of this model.
        """
        if checkpoint is None:
            if self.first_weights is None:
                raise self.ranks.of_all(
                    RunError("The run must have a checkpoint to go on from; it has none any more.")
                )
            self.first_weights.into(self.model, self.ranks)
            self.engine.optimizers.forget()
            self.average.forget()
            self.progress = Progress()
        else:
            with self.ranks.raising_on_all():
                self.progress = restore(
                    checkpoint, self.model, self.engine.optimizers, self.average
                )
        self.engine.forget()
        progress = self.progress
        progress.held = self.reproducibility_settings
        progress.checkpoints_at_words = {  # a branch has not those of its origin
            mark: step
            for mark, step in progress.checkpoints_at_words.items()
            if self.checkpoints.has(step)
        }
        # What did not fit once is not tried again.
        tokens = self.engine.micro_batch
        self.engine.micro_batch = min(tokens, progress.micro_batch or tokens)
        if progress.budget != str(self._budget):  # of what is not the end of the run any more
            progress.totals.closing, progress.budget = Sums(), str(self._budget)
            if self.config.averaging == "tail":
                self.average.forget()
                progress.num_averaged = 0
        self._pending.clear()
        self.observer.on_begin(BeginEvent(progress=progress))

    def train(self) -> None:
        """Train until the budget is spent; the last checkpoint is on disk at the end.

        Raises:
            DivergenceError: the loss diverged once more than `max_rollbacks`.
            RunStopped: a signal came; a checkpoint of the last step is on disk.
            OSError: the run's folder cannot be written.
        """
        now = self._start_clock()
        if self.evaluator is not None:
            self.evaluator.started = now
        self._pending.first_step = self.progress.spent.step + 1
        self.model.train()
        try:
            with self._batch_source() as get_batch:
                self.engine.warm_up(self.progress.batch_number)
                while not self._is_finished or self._evaluation_is_overdue:
                    try:
                        if self._evaluation_is_overdue:
                            self._make_overdue_evaluation()
                        else:
                            self._train_one_step(get_batch)
                    except Diverged as event:
                        self._roll_back(event)
        except Exception:
            with contextlib.suppress(OSError):  # a checkpoint that is under way shall be whole
                self.checkpoints.wait()
            raise
        self.checkpoints.wait()

    @property
    def _is_finished(self) -> bool:
        """Whether the budget is spent, or enough evaluations were no better than the best."""
        ends_early = self.selection is not None and self.selection.ends(self.progress)
        return self.share_spent == 1 or ends_early

    def _start_clock(self) -> float:
        """Count time on from that in `progress`; gives `time.perf_counter()`."""
        now = self._pending.clock = time.perf_counter()
        self._origin = now - self.progress.spent.seconds
        return now

    def _train_one_step(self, get_batch: Callable[[int], Any]) -> None:
        """Make one step, and then what is due; the checkpoint last, so that it has all of that."""
        share_before, spent_before = self.share_spent, replace(self.progress.spent)
        rate = rate_share(self.config, self._budget.middle_of_step(self.progress.spent))
        try:
            self._start_step(get_batch, rate)
        except Interrupted as interrupted:
            self._stop_before_step(interrupted.by)
        stop, has_time = self._synchronize()
        self.average.update(self.progress, self.share_spent)
        self._pending.set_share_spent(self.share_spent)
        due = self._due_after_step(share_before, spent_before, stop=stop, has_time=has_time)
        # Reading the losses waits for the device: a GPU is given the next steps first.
        if (
            due.needs_losses
            or self.progress.spent.step == self._pending.first_step
            or len(self._pending) >= _MOST_PENDING
            or not self._is_asynchronous
        ):
            grad_norm = self._pending.drain(self.progress)
        paused = time.perf_counter()
        if due.metrics:
            learning_rate = rate * self.config.learning_rate
            self._report_step(grad_norm, learning_rate, is_stopping=stop is not None)
        if due.evaluation or due.checkpoint:
            self._check_weights()
        if due.evaluation:
            stop = self._evaluate()
        if self.share_spent == 1 and self._is_limited_by_time:
            self.progress.owes_validation = False  # there is time for the closing figures alone
        if due.checkpoint or stop is not None or self.progress.is_best:
            self._save_checkpoint()
        self.checkpoints.check()
        self._pending.clock += time.perf_counter() - paused
        if stop is not None:
            self._stop(stop)

    def _mark_words(self, before: Spent) -> bool:
        """Note that the checkpoint of this step is kept, if it passed a number of words."""
        if self.word_marks is None:
            return False
        spent = self.progress.spent
        passed = self.word_marks.passed(*map(self.word_marks.words, (before, spent)))
        self.progress.checkpoints_at_words |= {str(mark): spent.step for mark in passed}
        return bool(passed)

    def _due_after_step(
        self,
        share_before: float,
        spent_before: Spent,
        *,
        stop: signal.Signals | None,
        has_time: bool,
    ) -> _Due:
        """What is due; an evaluation that must wait stays owed in `progress`.

        Args:
            share_before: the share of the budget that was spent before the step.
            spent_before: what that was.
            stop: the signal that asks to stop: a checkpoint is saved first, nothing is evaluated.
            has_time: whether there is time for an evaluation.
        """
        config, progress, spent = self.config, self.progress, self.progress.spent
        shares = (share_before, self.share_spent)
        is_last = shares[1] == 1
        if is_last or is_due(config.validate_every, self.evaluations, spent, *shares):
            progress.owes_validation = True
        is_checkpoint_due = is_due(config.checkpoint_every, CHECKPOINTS_A_RUN, spent, *shares)
        is_kept = config.keep_every is not None and spent.step % config.keep_every == 0
        is_kept |= self._mark_words(spent_before)
        return _Due(
            metrics=is_last or spent.step % config.log_every == 0,
            evaluation=progress.owes_validation and has_time and stop is None,
            checkpoint=is_last or is_checkpoint_due or is_kept or stop is not None,
        )

    @property
    def _evaluation_is_overdue(self) -> bool:
        """Whether an evaluation was due before this process began, or before a rollback.

        Where steps decide when one is due, it is made before anything else; so the metrics come out
        as if no signal had come.
        """
        return self.progress.owes_validation and not self._is_limited_by_time

    def _make_overdue_evaluation(self) -> None:
        """Make the evaluation that is owed, and the checkpoint of its step again, after it.

        Raises:
            Diverged: it found that the weights diverged. Their checkpoint is removed: without the
                signal there would be none.
        """
        try:
            self._check_weights()
            stop = self._evaluate()
        except Diverged:
            self.checkpoints.withdraw(self.progress.spent.step)
            raise
        if stop is not None:
            self._stop(stop)
        self._save_checkpoint()
        self._pending.clock = time.perf_counter()

    def _stop_before_step(self, stop: signal.Signals) -> NoReturn:
        """Stop after the last whole step, where a signal interrupted the one after it."""
        if self._pending:
            self._pending.drain(self.progress)
        # What this process has not done is in a checkpoint, or nothing is done.
        step = self.progress.spent.step
        if step >= self._pending.first_step and self._saved_step != step:
            self._check_weights()
            self._save_checkpoint()
        self._stop(stop)

    def _stop(self, stop: signal.Signals) -> NoReturn:
        """Raise `RunStopped` when the last checkpoint is on disk."""
        with self.display.doing("saving"):
            self.checkpoints.wait()
        raise RunStopped(stop)

    def _synchronize(self) -> tuple[signal.Signals | None, bool]:
        """Take the time from the first rank, and from any rank the signal that asks to stop.

        Returns:
            The signal, and whether there is time for an evaluation.
        """
        seconds = time.perf_counter() - self._origin
        has_time = (
            not self._is_limited_by_time
            or self.evaluator is None
            or self.evaluator.has_time(self.progress.totals.timed)
        )
        found = self.ranks.gather([seconds, float(self.stop.by or 0), float(has_time)])
        self.progress.spent.seconds = float(found[0, 0])
        number = int(found[:, 1].max())
        return signal.Signals(number) if number else None, bool(found[0, 2])

    @property
    def _is_limited_by_time(self) -> bool:
        """Whether evaluations wait until there is time; else they are due by steps alone."""
        return self._budget.unit == "seconds" and self.config.validate_every is None

    @property
    def _is_asynchronous(self) -> bool:
        """Whether the device works while the host does other things."""
        return self.device.type == "cuda"

    @contextlib.contextmanager
    def _batch_source(self) -> Iterator[Callable[[int], Any]]:
        """What gives the batch of a number, as the engine takes it."""
        if not self._is_asynchronous:
            yield self.engine.make
            return
        with BatchesAhead(self.engine.make, pin_memory=self.device.type == "cuda") as ahead:
            yield ahead.batch

    def _start_step(self, get_batch: Callable[[int], Any], rate_share: float) -> None:
        """Give a step on the next batch to the device.

        Raises:
            Interrupted: a signal came; the weights are as they were.
        """
        spent, number = self.progress.spent, self.progress.batch_number
        self.engine.optimizers.set_rate(rate_share)
        with self.phase("data"):
            batch = get_batch(number)
        key = int(random_bits(self.config.seed, Stream.DROPOUT, spent.step)[0])
        tried = self.engine.micro_batch
        result = self.engine.step(batch, dropout_key=key)
        if result.micro_batch < tried:
            self.display.warn(
                f"{tried:,} tokens at once did not fit in the memory of "
                f"{self.device.type}: going on with {result.micro_batch:,}."
            )
            self.engine.micro_batch = self.progress.micro_batch = result.micro_batch
        spent.step += 1
        spent.pairs += result.sizes.num_sequences
        spent.tokens += result.sizes.num_tokens
        self._pending.append(spent.step, number, result)

    def _check_weights(self) -> None:
        """Raise `Diverged` if the weights are not finite."""
        if not has_finite_weights(self.model, self.ranks):
            raise self._diverged("the weights are not finite numbers")

    def _diverged(self, what: str) -> Diverged:
        """With the last step."""
        return Diverged(what, self.progress.spent.step, self.progress.last_batch_number)

    def _report_step(self, grad_norm: float, rate: float, *, is_stopping: bool) -> None:
        """Tell the observer the metrics since it was told the last time."""
        spent, window = self.progress.spent, self.progress.window
        figures = {
            **window.means(self.parallel.objective),
            "learning_rate": rate,
            "grad_norm": grad_norm,
            "pairs": spent.pairs,
            "tokens": spent.tokens,
            "seconds": spent.seconds,
            **window.throughput(),
        }
        self.progress.window = Sums()
        self.observer.on_step(
            StepEvent(
                step=spent.step,
                epoch=spent.pairs / self.batches.num_examples,
                share_spent=self.share_spent,
                figures=figures,
                is_stopping=is_stopping,
            )
        )

    def _evaluate(self) -> signal.Signals | None:
        """Make the evaluation that is owed; if a signal comes, leave it owed and give the signal.

        Raises:
            Diverged: its loss is not finite.
        """
        progress = self.progress
        if self.evaluator is None:
            progress.owes_validation = False
            return None
        try:
            with self.average.applied():
                found = self.evaluator.run(self.engine.micro_batch)
        except Interrupted as interrupted:
            return interrupted.by
        if not found.is_finite:
            raise self._diverged("the validation loss is not a finite number")
        progress.owes_validation = False
        self.observer.on_evaluation(
            EvaluationEvent(step=progress.spent.step, figures=found.metrics())
        )
        if self.selection is not None:
            epoch = progress.spent.pairs / self.batches.num_examples
            self.selection.count(progress, found.metrics(), epoch)
        return None

    def _save_checkpoint(self) -> None:
        self._saved_step = self.progress.spent.step
        self.observer.on_checkpoint(CheckpointEvent(progress=self.progress))
        with self.display.doing("saving"):
            self.checkpoints.save(
                self.model,
                self.engine.optimizers,
                self.average,
                self.tokenizer,
                self.progress,
                is_provisional=self._evaluation_is_overdue,
            )

    def _roll_back(self, event: Diverged) -> None:
        """Go back to the last checkpoint, with the batch on which the loss diverged left out.

        What a process that is killed after this does again comes out the same: the batch diverges
        again.

        Raises:
            DivergenceError: this has been done often enough.
        """
        self.checkpoints.wait()
        skipped = self.progress.skipped
        if len(skipped) >= self.config.max_rollbacks:
            raise self.ranks.of_all(self._too_many_rollbacks(event)) from event
        self.begin(self.checkpoints.newest_whole(self.display.warn))
        progress = self.progress
        progress.skipped = [*skipped, event.batch_number]
        self.observer.on_rollback(
            RollbackEvent(
                step=progress.spent.step,
                rolled_back_from=event.step,
                reason=str(event),
                skipped_batch=event.batch_number,
                rollbacks=len(progress.skipped),
            )
        )
        self._start_clock()  # the lost time is given back, as to a run that is killed and resumed
        self.display.warn(
            f"At step {event.step} {event}: back to step {progress.spent.step}, and on without the "
            f"batch (rollback {len(progress.skipped)} of {self.config.max_rollbacks} at most)."
        )

    def _too_many_rollbacks(self, event: Diverged) -> DivergenceError:
        kept, rollbacks = self.checkpoints.newest(), len(self.progress.skipped)
        where = f"the last good checkpoint is {kept}" if kept else "no checkpoint was due yet"
        often = f" (after {rollbacks} rollbacks)" if rollbacks else ""
        return DivergenceError(
            f"At step {event.step} {event}{often}; {where}. "
            "Begin another run with a lower --learning-rate or a longer --warmup-ratio."
        )
