"""The loop: steps until the budget is spent, and on the way the log, validation and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bertsmith.config import TrainingConfig
from bertsmith.data.batches import Batch, Batches
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
    spent: Spent = field(default_factory=Spent)
    totals: Totals = field(default_factory=Totals)

    def train(self, display: Display, metrics: MetricsFile) -> None:
        """Train until the budget is spent; the last checkpoint is written at the end.

        Raises:
            DivergenceError: the loss is no longer finite; the last good checkpoint is named.
            OSError: the run's folder cannot be written.
        """
        budget = Budget.of(self.config, self.batches.num_pairs)
        optimizer = make_optimizer(self.model, self.config)
        began = clock = time.perf_counter()
        window = Sums()
        self.model.train()
        with display.training() as show:
            while (before := budget.progress(self.spent)) < 1:
                rate = learning_rate(self.config, budget.middle_of_step(self.spent))
                result, batch = self._step(optimizer, rate)
                self.spent.step += 1
                self.spent.pairs += batch.num_sequences
                self.spent.tokens += batch.num_tokens
                # On a GPU the clock is read once the losses are there; the update that is still
                # under way then falls into the next step, and none is left out.
                losses = Losses(*(float(loss) for loss in result.losses))
                now = time.perf_counter()
                seconds, clock = now - clock, now
                self.spent.seconds = now - began
                after = budget.progress(self.spent)
                window.add(losses, batch, seconds)
                self._add_up(losses, batch, seconds, after)
                if self.spent.step % self.config.log_every == 0 or after == 1:
                    self._log(metrics, window, result, rate)
                    show(after, self.spent.step, {**window.means(), **window.throughput()})
                    window = Sums()
                due = (self.spent, before, after)
                housekeeping = time.perf_counter()
                if after == 1 or is_due(self.config.checkpoint_every, CHECKPOINTS_A_RUN, *due):
                    self._save_checkpoint(optimizer)
                if after == 1 or is_due(self.config.validate_every, VALIDATIONS_A_RUN, *due):
                    self._validate(metrics)
                self.draw_curves()
                clock += time.perf_counter() - housekeeping

    def _step(self, optimizer: torch.optim.Optimizer, rate: float) -> tuple[StepResult, Batch]:
        """One step on the next batch."""
        for group in optimizer.param_groups:
            group["lr"] = rate
        # Dropout is a function of seed and step as well: no generator's state has to be kept.
        torch.manual_seed((self.config.seed * 0x9E3779B9 + self.spent.step) % 2**63)
        batch = self.batches.batch(self.spent.step)
        try:
            result = train_step(
                self.model,
                optimizer,
                batch,
                micro_batch_size=self.micro_batch_size,
                max_grad_norm=self.config.max_grad_norm,
                device=self.device,
                autocast=autocast(self.device, self.config.precision),
            )
        except DivergenceError as error:
            self.spent.step += 1
            raise self._diverged(str(error)) from error
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.micro_batch_size} sequences at once do not fit in the memory of "
                f"{self.device.type}; lower --micro-batch-size."
            ) from error
        return result, batch

    def _add_up(self, losses: Losses, batch: Batch, seconds: float, progress: float) -> None:
        if self.spent.step == 1:
            self.totals.first_step_seconds = seconds
        else:
            self.totals.timed.add(losses, batch, seconds)
        if progress > _CLOSING_PROGRESS:
            self.totals.closing.add(losses, batch, seconds)
        self.totals.cut_pairs += batch.num_cut_pairs
        self.totals.cut_tokens += batch.num_cut_tokens

    def _log(self, metrics: MetricsFile, window: Sums, result: StepResult, rate: float) -> None:
        figures = {
            **window.means(),
            "learning_rate": rate,
            "grad_norm": float(result.grad_norm),
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

    def _diverged(self, what: str) -> DivergenceError:
        kept = list_checkpoints(self.run)
        where = f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint was due yet"
        return DivergenceError(
            f"{what}, at step {self.spent.step}; {where}. Lower --learning-rate."
        )

    def _save_checkpoint(self, optimizer: torch.optim.Optimizer) -> None:
        # The step looked at losses and gradients; the update itself may have overflowed.
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise self._diverged("The weights are no longer finite numbers")
        save_checkpoint(
            self.run,
            self.model,
            optimizer,
            self.tokenizer,
            self.spent,
            keep=self.config.keep_checkpoints,
        )
