"""The loop: steps until the budget is spent, and on the way the log, validation and checkpoints.

Where the loss diverges it goes back to the last checkpoint and leaves the batch out.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from bertsmith.config import TrainingConfig
from bertsmith.data.ahead import BatchesAhead
from bertsmith.data.batches import Batches
from bertsmith.display import Display
from bertsmith.errors import DivergenceError, RunError, RunStopped
from bertsmith.evaluation.held_out import evaluate
from bertsmith.model.device import autocast
from bertsmith.model.shards import own_part
from bertsmith.random_bits import Int64, Stream, random_bits
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.budget import Budget, is_due
from bertsmith.training.checkpoint import Checkpoints, restore
from bertsmith.training.engine import Engine
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
from bertsmith.training.phases import Phase, unmeasured
from bertsmith.training.progress import Progress
from bertsmith.training.step import Losses, StepResult
from bertsmith.training.stop import Interrupted, StopRequest
from bertsmith.training.sums import Sums
from bertsmith.training.validation_time import ValidationTime

VALIDATIONS_A_RUN = 10
CHECKPOINTS_A_RUN = 4
_CLOSING_PROGRESS = 0.9  # the closing losses are means over the last tenth of the budget
_MEAN_OVER = 100  # steps that the running mean of the loss goes back, about
_MOST_WAITING = 64  # steps that a GPU is given before a look; each keeps its batch
_LEAST_SPIKE = 1.0  # nats; a loss near 0 may well double


@dataclass
class _Taken:
    """A step that was given to the device, and may still be under way there."""

    step: int
    number: int
    """Of its batch."""
    result: StepResult
    progress: float = 0.0
    """The share of the budget spent after it."""


class _Diverged(Exception):  # noqa: N818 (not an error yet: the loop may go back and go on)
    """The loss or the weights left the path at a step."""

    def __init__(self, what: str, step: int, batch_number: int) -> None:
        super().__init__(what)
        self.step, self.batch_number = step, batch_number


@dataclass(kw_only=True)
class Loop:
    """A training run in progress.

    Args:
        parallel: the model, on `device`, and the ranks that train it.
        first_weights: where the run begins; None: nothing goes back behind its checkpoint.
        batches: of the training split; this rank's part of them.
        validation: the fixed held-out pairs, or None.
        tokenizer: saved with every checkpoint.
        config: the training section.
        observer: is told of steps, evaluations and so on.
        checkpoints: of the run's folder; the first rank's are written.
        stop: asked after each step whether to end here.
        display: shows what goes on.
        device: where.
        engine: makes the steps; it has the optimizers.
        word_counts: int64 [V]; of the training text, for what word frequencies alone would give.
        held: the settings that a resumed run must have, too.
        phase: measures the parts of a step.

    Attributes:
        seconds: of this process's steps.
    """

    parallel: Parallel
    first_weights: FirstWeights | None
    batches: Batches
    validation: Batches | None
    tokenizer: Tokenizer
    config: TrainingConfig
    observer: Observer
    checkpoints: Checkpoints
    stop: StopRequest
    display: Display
    device: torch.device
    engine: Engine
    word_counts: Int64 | None = None
    held: dict[str, Any] = field(default_factory=dict)
    phase: Phase = unmeasured
    progress: Progress = field(default_factory=Progress)
    seconds: float = 0.0
    _waiting: list[_Taken] = field(default_factory=list)
    """Steps whose losses the host has not looked at."""
    _clock: float = 0.0
    """When it last did."""
    _began: float = 0.0
    """When training would have begun, had it gone on without a break."""
    _trains_since: float = 0.0
    """When this process began to."""
    _first_step: int = 0
    """Of this process."""
    _saved: int = -1
    """The last step that this process began a checkpoint of."""
    _validating: ValidationTime = field(default_factory=ValidationTime)

    def __post_init__(self) -> None:
        self._last: _Taken  # the step before
        self.model, self.ranks = self.parallel.model, self.parallel.ranks
        self._budget = Budget.of(self.config, self.batches.num_examples)

    @property
    def share_spent(self) -> float:
        """Of the budget, at most 1."""
        return self._budget.progress(self.progress.spent)

    def begin(self, checkpoint: Path | None) -> None:
        """Set all to `checkpoint`, or to the beginning if it is None.

        Raises:
            ModelError: the checkpoint is not of this model.
        """
        if checkpoint is None:
            if self.first_weights is None:
                raise self.ranks.of_all(
                    RunError("The run must have a checkpoint to go on from; it has none any more.")
                )
            self.first_weights.into(self.model)
            self.engine.optimizers.forget()
            self.progress = Progress()
        else:
            with self.ranks.together():
                self.progress = restore(checkpoint, self.model, self.engine.optimizers)
        self.engine.forget()
        progress = self.progress
        progress.held = self.held
        # What did not fit once is not tried again.
        tokens = self.engine.micro_batch
        self.engine.micro_batch = min(tokens, progress.micro_batch or tokens)
        if progress.budget != str(self._budget):  # of what is not the run's last tenth any more
            progress.totals.closing, progress.budget = Sums(), str(self._budget)
        self._waiting = []
        self.observer.on_begin(BeginEvent(progress=progress))

    def train(self) -> None:
        """Train until the budget is spent; the last checkpoint is on disk at the end.

        Raises:
            DivergenceError: the loss diverged once more than `max_rollbacks`.
            RunStopped: a signal came; a checkpoint of the last step is on disk.
            OSError: the run's folder cannot be written.
        """
        self._clock = time.perf_counter()
        self._began = self._clock - self.progress.spent.seconds
        self._trains_since = self._clock
        self._first_step = self.progress.spent.step + 1
        self.model.train()
        try:
            with self._source() as source:
                if self.ranks.size > 1:
                    sequence = self.batches.batch(self.progress.batch_number).split(1)[0]
                    with autocast(self.device, self.config.precision):
                        self.parallel.warm_up(sequence.to(self.device))
                while self.share_spent < 1 or self._must_catch_up:
                    try:
                        if self._must_catch_up:
                            self._catch_up()
                        else:
                            self._go_on(source)
                    except _Diverged as event:
                        self._roll_back(event)
        except Exception:
            with contextlib.suppress(OSError):  # a checkpoint that is under way shall be whole
                self.checkpoints.wait()
            raise
        self.checkpoints.wait()

    def _go_on(self, source: Callable[[int], Any]) -> None:
        """One step, and what is due after it; the checkpoint last, so that it has all of that."""
        config, progress, spent = self.config, self.progress, self.progress.spent
        before = self.share_spent
        share = rate_share(config, self._budget.middle_of_step(spent))
        try:
            self._step(source, share)
        except Interrupted as asked:
            self._leave_before_step(asked.by)
        stop, has_time = self._meet()
        after = self._last.progress = self.share_spent
        due = (spent, before, after)
        log = after == 1 or spent.step % config.log_every == 0
        if after == 1 or is_due(config.validate_every, VALIDATIONS_A_RUN, *due):
            progress.owes_validation = True
        check = progress.owes_validation and has_time and stop is None
        save = after == 1 or is_due(config.checkpoint_every, CHECKPOINTS_A_RUN, *due)
        # A look at the losses waits for the device: a GPU is given the next steps first.
        wanted = spent.step == self._first_step or log or check or save or stop is not None
        if wanted or not self._works_on_its_own or len(self._waiting) >= _MOST_WAITING:
            grad_norm = self._look()
        housekeeping = time.perf_counter()
        if log:
            self._log(grad_norm, share * config.learning_rate, is_stopping=stop is not None)
        if check or save or stop is not None:
            self._watch_weights()
        if check:
            stop = self._validate()
        if after == 1 and self._clock_decides:  # the closing figures are all that there is time for
            progress.owes_validation = False
        if save or stop is not None:
            self._save_checkpoint()
        self.checkpoints.check()
        self._clock += time.perf_counter() - housekeeping
        if stop is not None:
            self._leave(stop)

    @property
    def _must_catch_up(self) -> bool:
        """Whether a validation was due before this process began, or before a rollback.

        Where steps decide when one is due, it is made before anything else; so the log comes out as
        if no signal had come.
        """
        return self.progress.owes_validation and not self._clock_decides

    def _catch_up(self) -> None:
        """Make the validation that is owed, and the checkpoint of its step again, after it.

        Raises:
            _Diverged: it condemned the weights. Their checkpoint is removed: without the signal
                there would be none.
        """
        try:
            self._watch_weights()
            stop = self._validate()
        except _Diverged:
            self.checkpoints.withdraw(self.progress.spent.step)
            raise
        if stop is not None:
            self._leave(stop)
        self._save_checkpoint()
        self._clock = time.perf_counter()

    def _leave_before_step(self, stop: signal.Signals) -> NoReturn:
        """Leave after the last whole step, with one under way that a signal came into."""
        if self._waiting:
            self._look()
        # What this process has not done is in a checkpoint, or nothing is done.
        if self.progress.spent.step >= self._first_step and self._saved != self.progress.spent.step:
            self._watch_weights()
            self._save_checkpoint()
        self._leave(stop)

    def _leave(self, stop: signal.Signals) -> NoReturn:
        with self.display.doing("saving"):
            self.checkpoints.wait()
        raise RunStopped(stop)

    def _meet(self) -> tuple[signal.Signals | None, bool]:
        """Take the time from the first rank, and from any rank the signal that asks to stop.

        Returns:
            The signal, and whether there is time for a validation.
        """
        seconds = time.perf_counter() - self._began
        found = self.ranks.gather(
            [seconds, float(self.stop.by or 0), float(self._has_time_to_validate())]
        )
        self.progress.spent.seconds = float(found[0, 0])
        number = int(found[:, 1].max())
        return signal.Signals(number) if number else None, bool(found[0, 2])

    @property
    def _clock_decides(self) -> bool:
        """Whether validations wait until there is time; else they are due by steps alone."""
        return self._budget.unit == "seconds" and self.config.validate_every is None

    def _has_time_to_validate(self) -> bool:
        if not self._clock_decides or self.validation is None:
            return True
        timed = self.progress.totals.timed
        if not timed.num_sequences:  # the first step is no measure
            return False
        return self._validating.allows_another(
            time.perf_counter() - self._trains_since,
            pairs=min(self.config.validation_pairs, self.validation.num_examples),
            seconds_a_pair=timed.seconds / timed.num_sequences,
        )

    @property
    def _works_on_its_own(self) -> bool:
        """Whether the device goes on while the host does other things."""
        return self.device.type == "cuda"

    @contextlib.contextmanager
    def _source(self) -> Iterator[Callable[[int], Any]]:
        """What gives the batch of a number, as the engine takes it."""
        if not self._works_on_its_own:
            yield self.engine.make
            return
        with BatchesAhead(self.engine.make, pin_memory=self.device.type == "cuda") as ahead:
            yield ahead.batch

    def _step(self, source: Callable[[int], Any], rate_share: float) -> None:
        """One step on the next batch, given to the device."""
        spent, number = self.progress.spent, self.progress.batch_number
        self.engine.optimizers.set_rate(rate_share)
        with self.phase("data"):
            batch = source(number)
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
        self._last = _Taken(spent.step, number, result)
        self._waiting.append(self._last)

    def _look(self) -> float:
        """Add up the steps that wait; the gradient's norm of the last one.

        Raises:
            _Diverged: the loss of one of them did.
        """
        rows = [
            torch.stack([*taken.result.losses, taken.result.grad_norm, taken.result.is_finite])
            for taken in self._waiting
        ]
        figures = torch.stack(rows).tolist()  # one copy for all
        now = time.perf_counter()
        seconds = (now - self._clock) / len(figures)
        self._clock = now
        for taken, (mlm, nsp, _, is_finite) in zip(self._waiting, figures, strict=True):
            self._watch(Losses(mlm, nsp), bool(is_finite), taken)
            self.progress.window.add(Losses(mlm, nsp), taken.result.sizes, seconds)
            self._add_up(Losses(mlm, nsp), taken, seconds)
        self._waiting = []
        return float(figures[-1][2])

    def _watch(self, losses: Losses, is_finite: bool, taken: _Taken) -> None:
        """Hold a step's loss against those before it. Raises: `_Diverged`."""
        if not is_finite:
            what = "the loss or its gradient is not a finite number"
            raise _Diverged(what, taken.step, taken.number)
        sizes, mean = taken.result.sizes, self.progress.mean_loss
        loss = losses.mlm / max(sizes.num_masked, 1) + losses.nsp / max(sizes.num_pairs, 1)
        if mean is None:
            mean = loss
        elif self.config.spike_factor and loss > max(
            self.config.spike_factor * mean, mean + _LEAST_SPIKE
        ):
            what = f"the loss rose to {loss:.3f} from a mean of {mean:.3f}"
            raise _Diverged(what, taken.step, taken.number)
        self.progress.mean_loss = mean + (loss - mean) / _MEAN_OVER

    def _watch_weights(self) -> None:
        """Raise `_Diverged` if an update overflowed, which losses and gradients did not tell."""
        parts = map(own_part, self.model.parameters())
        if self.ranks.any(not all(bool(torch.isfinite(part).all()) for part in parts)):
            raise self._diverged("the weights are not finite numbers")

    def _add_up(self, losses: Losses, taken: _Taken, seconds: float) -> None:
        totals, sizes = self.progress.totals, taken.result.sizes
        self.seconds += seconds
        if taken.step == self._first_step:
            totals.first_step_seconds = seconds
        else:
            totals.timed.add(losses, sizes, seconds)
        if taken.progress > _CLOSING_PROGRESS:
            totals.closing.add(losses, sizes, seconds)
        totals.cut_pairs += sizes.num_cut_pairs
        totals.cut_tokens += sizes.num_cut_tokens

    def _log(self, grad_norm: float, rate: float, *, is_stopping: bool) -> None:
        spent, window = self.progress.spent, self.progress.window
        figures = {
            **window.means(),
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

    def _diverged(self, what: str) -> _Diverged:
        """With the last step."""
        return _Diverged(what, self.progress.spent.step, self.progress.last_batch_number)

    def _validate(self) -> signal.Signals | None:
        """Make the validation that is owed; if a signal comes, leave it owed and give the signal.

        Raises:
            _Diverged: its loss is not finite.
        """
        progress, began = self.progress, time.perf_counter()
        if self.validation is None:
            progress.owes_validation = False
            return None
        try:
            with (
                self.display.doing("validating") as show,
                autocast(self.device, self.config.precision),
            ):
                found = evaluate(
                    self.model,
                    self.validation,
                    device=self.device,
                    micro_batch=self.engine.micro_batch,
                    ranks=self.ranks,
                    most_pairs=self.config.validation_pairs,
                    counts=self.word_counts,
                    progress=self._heed(show),
                )
        except Interrupted as asked:
            self.model.train()
            return asked.by
        if not found.is_finite:
            raise self._diverged("the validation loss is not a finite number")
        progress.owes_validation = False
        ended = time.perf_counter()
        self._validating.add(ended - began, ended - self._trains_since)
        self.observer.on_evaluation(
            EvaluationEvent(step=progress.spent.step, figures=found.metrics())
        )
        return None

    def _heed(self, show: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """`show`, and on every rank leave what is done if a signal came to one of them."""

        def heed(done: int, total: int) -> None:
            show(done, total)
            if number := int(self.ranks.gather([float(self.stop.by or 0)]).max()):
                raise Interrupted(signal.Signals(number))

        return heed

    def _save_checkpoint(self) -> None:
        self._saved = self.progress.spent.step
        self.observer.on_checkpoint(CheckpointEvent(progress=self.progress))
        with self.display.doing("saving"):
            self.checkpoints.save(
                self.model,
                self.engine.optimizers,
                self.tokenizer,
                self.progress,
                is_provisional=self._must_catch_up,
            )

    def _roll_back(self, event: _Diverged) -> None:
        """Go back to the last checkpoint, with the batch on which the loss diverged left out.

        What a process that is killed after this does again comes out the same: the batch diverges
        again.

        Raises:
            DivergenceError: this has been done often enough.
        """
        step, skipped = event.step, self.progress.skipped
        self.checkpoints.wait()
        if len(skipped) >= self.config.max_rollbacks:
            kept = self.checkpoints.newest()
            where = f"the last good checkpoint is {kept}" if kept else "no checkpoint was due yet"
            often = f" (after {len(skipped)} rollbacks)" if skipped else ""
            raise self.ranks.of_all(
                DivergenceError(
                    f"At step {step} {event}{often}; {where}. "
                    "Begin another run with a lower --learning-rate or a longer --warmup-ratio."
                )
            )
        self.begin(self.checkpoints.newest_whole(self.display.warn))
        progress = self.progress
        progress.skipped = [*skipped, event.batch_number]
        self.observer.on_rollback(
            RollbackEvent(
                step=progress.spent.step,
                rolled_back_from=step,
                reason=str(event),
                skipped_batch=event.batch_number,
                rollbacks=len(progress.skipped),
            )
        )
        # The time that was lost is given back, as to a run that is killed and resumed.
        self._clock = time.perf_counter()
        self._began = self._clock - progress.spent.seconds
        self.display.warn(
            f"At step {step} {event}: back to step {progress.spent.step}, and on without the batch "
            f"(rollback {len(progress.skipped)} of {self.config.max_rollbacks} at most)."
        )
