"""The loop: steps until the budget is spent, and on the way the log, validation and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bertsmith.config import TrainingConfig
from bertsmith.data.ahead import BatchesAhead
from bertsmith.data.batches import Batch, Batches
from bertsmith.data.random_bits import Stream, random_bits
from bertsmith.errors import DeviceError, DivergenceError
from bertsmith.evaluation.held_out import evaluate
from bertsmith.model.bert import Bert
from bertsmith.model.device import autocast
from bertsmith.model.locate import list_checkpoints
from bertsmith.report.metrics_file import MetricsFile
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.budget import Budget, Spent, is_due
from bertsmith.training.checkpoint import save_checkpoint
from bertsmith.training.display import Display
from bertsmith.training.optimizer import learning_rate, make_optimizer
from bertsmith.training.phases import Phase, unmeasured
from bertsmith.training.step import Losses, StepResult, train_step
from bertsmith.training.sums import Sums

VALIDATIONS_A_RUN = 10
CHECKPOINTS_A_RUN = 4
_CLOSING_PROGRESS = 0.9  # the closing losses are means over the last tenth of the budget


@dataclass(kw_only=True)
class Totals:
    """What a run adds up for its closing lines."""

    closing: Sums = field(default_factory=Sums)
    """Over the last tenth of the budget."""
    timed: Sums = field(default_factory=Sums)
    """Over all steps but the first, which also warms caches and kernels up."""
    first_step_seconds: float = 0.0
    cut_pairs: int = 0
    cut_tokens: int = 0


@dataclass
class _Taken:
    """A step that was given to the device, and may still be under way there."""

    step: int
    batch: Batch
    result: StepResult
    progress: float = 0.0
    """The share of the budget spent after it."""


@dataclass(kw_only=True)
class Loop:
    """A training run in progress.

    Args:
        model: on `device`, initialised.
        batches: of the training split.
        validation: the fixed held-out pairs, or None.
        tokenizer: saved with every checkpoint.
        config: the training section.
        run: the run's folder.
        device, micro_batch_size: where, and how much at once.
        draw_curves: called now and then; it decides whether to draw.
        phase: measures the parts of a step.
    """

    model: Bert
    batches: Batches
    validation: Batches | None
    tokenizer: Tokenizer
    config: TrainingConfig
    run: Path
    device: torch.device
    micro_batch_size: int
    draw_curves: Callable[[], None]
    phase: Phase = unmeasured
    spent: Spent = field(default_factory=Spent)
    totals: Totals = field(default_factory=Totals)
    _waiting: list[_Taken] = field(default_factory=list)
    """Steps whose losses the host has not looked at."""
    _clock: float = field(default_factory=time.perf_counter)
    """When it last did."""

    def train(self, display: Display, metrics: MetricsFile) -> None:
        """Train until the budget is spent; the last checkpoint is written at the end.

        Raises:
            DivergenceError: the loss is no longer finite; the last good checkpoint is named.
            OSError: the run's folder cannot be written.
        """
        budget = Budget.of(self.config, self.batches.num_pairs)
        optimizer = make_optimizer(self.model, self.config)
        window = Sums()
        began = self._clock = time.perf_counter()
        self.model.train()
        with display.training() as show, self._source() as source:
            while (before := budget.progress(self.spent)) < 1:
                rate = learning_rate(self.config, budget.middle_of_step(self.spent))
                self._step(optimizer, source, rate)
                self.spent.seconds = time.perf_counter() - began
                after = self._waiting[-1].progress = budget.progress(self.spent)
                due = (self.spent, before, after)
                log = after == 1 or self.spent.step % self.config.log_every == 0
                save = after == 1 or is_due(self.config.checkpoint_every, CHECKPOINTS_A_RUN, *due)
                check = after == 1 or is_due(self.config.validate_every, VALIDATIONS_A_RUN, *due)
                # A look at the losses waits for the device: a GPU is given the next steps first.
                if not self._works_on_its_own or self.spent.step == 1 or log or save or check:
                    grad_norm = self._look(window)
                if log:
                    self._log(metrics, window, grad_norm, rate)
                    show(after, self.spent.step, {**window.means(), **window.throughput()})
                    window = Sums()
                housekeeping = time.perf_counter()
                if save:
                    self._save_checkpoint(optimizer)
                if check:
                    self._validate(metrics)
                self.draw_curves()
                self._clock += time.perf_counter() - housekeeping

    @property
    def _works_on_its_own(self) -> bool:
        """Whether the device goes on while the host does other things."""
        return self.device.type == "cuda"

    def _source(self) -> AbstractContextManager[Batches | BatchesAhead]:
        if self._works_on_its_own:
            return BatchesAhead(self.batches, pin_memory=True)
        return nullcontext(self.batches)

    def _step(
        self, optimizer: torch.optim.Optimizer, source: Batches | BatchesAhead, rate: float
    ) -> None:
        """One step on the next batch, given to the device."""
        for group in optimizer.param_groups:
            group["lr"] = rate
        with self.phase("data"):
            batch = source.batch(self.spent.step)
        try:
            result = train_step(
                self.model,
                optimizer,
                batch,
                micro_batch_size=self.micro_batch_size,
                max_grad_norm=self.config.max_grad_norm,
                dropout_key=int(random_bits(self.config.seed, Stream.DROPOUT, self.spent.step)[0]),
                device=self.device,
                autocast=autocast(self.device, self.config.precision),
                phase=self.phase,
            )
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.micro_batch_size} sequences at once do not fit in the memory of "
                f"{self.device.type}; lower --micro-batch-size."
            ) from error
        self.spent.step += 1
        self.spent.pairs += batch.num_sequences
        self.spent.tokens += batch.num_tokens
        self._waiting.append(_Taken(self.spent.step, batch, result))

    def _look(self, window: Sums) -> float:
        """Add up the steps that wait; the gradient's norm of the last one.

        Raises:
            DivergenceError: one of them was not finite.
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
            if not is_finite:
                raise self._diverged(
                    "The loss or its gradient is no longer a finite number", taken.step
                )
            window.add(Losses(mlm, nsp), taken.batch, seconds)
            self._add_up(Losses(mlm, nsp), taken, seconds)
        self._waiting = []
        return float(figures[-1][2])

    def _add_up(self, losses: Losses, taken: _Taken, seconds: float) -> None:
        if taken.step == 1:
            self.totals.first_step_seconds = seconds
        else:
            self.totals.timed.add(losses, taken.batch, seconds)
        if taken.progress > _CLOSING_PROGRESS:
            self.totals.closing.add(losses, taken.batch, seconds)
        self.totals.cut_pairs += taken.batch.num_cut_pairs
        self.totals.cut_tokens += taken.batch.num_cut_tokens

    def _log(self, metrics: MetricsFile, window: Sums, grad_norm: float, rate: float) -> None:
        figures = {
            **window.means(),
            "learning_rate": rate,
            "grad_norm": grad_norm,
            "pairs": self.spent.pairs,
            "tokens": self.spent.tokens,
            "seconds": self.spent.seconds,
            **window.throughput(),
        }
        metrics.write(self.spent.step, figures)

    def _validate(self, metrics: MetricsFile) -> None:
        if self.validation is None:
            return
        with autocast(self.device, self.config.precision):
            found = evaluate(
                self.model,
                self.validation,
                device=self.device,
                micro_batch_size=self.micro_batch_size,
                most_pairs=self.config.validation_pairs,
            )
        metrics.write(self.spent.step, found.metrics())

    def _diverged(self, what: str, step: int) -> DivergenceError:
        kept = list_checkpoints(self.run)
        where = f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint was due yet"
        return DivergenceError(f"{what}, at step {step}; {where}. Lower --learning-rate.")

    def _save_checkpoint(self, optimizer: torch.optim.Optimizer) -> None:
        # The step looked at losses and gradients; the update itself may have overflowed.
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise self._diverged("The weights are no longer finite numbers", self.spent.step)
        save_checkpoint(
            self.run,
            self.model,
            optimizer,
            self.tokenizer,
            self.spent,
            keep=self.config.keep_checkpoints,
        )
