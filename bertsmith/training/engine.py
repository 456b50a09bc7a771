"""What makes the optimizer steps of a run; eager, on any device and any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from bertsmith.batch import Batch, BatchSource
from bertsmith.config import TrainingConfig
from bertsmith.hardware.device import autocast
from bertsmith.training.optimizer import Optimizers, make_optimizers
from bertsmith.training.parallel import Parallel
from bertsmith.training.phases import Phase, unmeasured
from bertsmith.training.step import StepResult, train_step


class Engine(Protocol):
    """Makes optimizer steps."""

    optimizers: Optimizers
    micro_batch: int
    """Tokens on the device at once, at most."""

    @property
    def make(self) -> Callable[[int], Any]:
        """What makes the batch of a number, in the form that `step` takes; picklable."""

    def step(self, batch: Any, *, dropout_key: int) -> StepResult:
        """Train on one batch that `make` made; nothing in it waits for the device."""

    def warm_up(self, number: int) -> None:
        """Do what must be done before the step on batch `number`, the first of this process."""

    def forget(self) -> None:
        """Be ready for weights or moments that were replaced."""


class EagerEngine:
    """`train_step` on unpadded batches: on any device and any number of ranks.

    Args:
        parallel: the model on its ranks.
        config: the training section.
        batches: of the training split.
        device: where.
        micro_batch: tokens at once.
        phase: measures the parts of a step.
        before_micro_batch: called before each of them; what it raises leaves the weights as they
            were.
    """

    def __init__(
        self,
        parallel: Parallel,
        config: TrainingConfig,
        batches: BatchSource,
        device: torch.device,
        *,
        micro_batch: int,
        phase: Phase = unmeasured,
        before_micro_batch: Callable[[], None] = lambda: None,
    ) -> None:
        self.optimizers = make_optimizers(parallel.model, config)
        self.micro_batch = micro_batch
        self.make: Callable[[int], Batch] = batches.batch
        self._parallel, self._config, self._device = parallel, config, device
        self._autocast = lambda: autocast(device, config.precision)
        self._phase, self._before_micro_batch = phase, before_micro_batch

    def step(self, batch: Batch, *, dropout_key: int) -> StepResult:
        """Train on one batch; see `train_step`."""
        return train_step(
            self._parallel,
            self.optimizers,
            batch,
            micro_batch=self.micro_batch,
            max_grad_norm=self._config.max_grad_norm,
            dropout_key=dropout_key,
            device=self._device,
            autocast=self._autocast,
            phase=self._phase,
            before_micro_batch=self._before_micro_batch,
        )

    def warm_up(self, number: int) -> None:
        """Let DDP lay out its buckets, as `Parallel.warm_up` says."""
        if self._parallel.ranks.size > 1:
            with self._autocast():
                self._parallel.warm_up(self.make(number).split(1)[0].to(self._device))

    def forget(self) -> None:
        """Nothing is kept from step to step."""
