"""Steps whose losses were not read yet, since reading them waits for the device."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from bertsmith.objectives import Objective
from bertsmith.training.divergence import Diverged, loss_spike
from bertsmith.training.progress import Progress
from bertsmith.training.step import StepResult

_CLOSING_SHARE = 0.9  # the closing losses are means over the last tenth of the budget


@dataclass
class _Step:
    """A step that was given to the device, and may still be under way there."""

    number: int
    batch_number: int
    result: StepResult
    share_spent: float = 0.0
    """The share of the budget that is spent after it."""


class PendingLosses:
    """Reads the losses of several steps at once, checks them, and adds them up.

    Args:
        objective: whose losses they are.
        spike_factor: how many times the running mean a loss must be to be a divergence; 0: none is.

    Attributes:
        first_step: of this process; it is timed apart.
        clock: `time.perf_counter()` when losses were last read. Whoever does something else than
            training adds its seconds, so that they are not counted as those of steps.
        seconds: of the steps that this process made.
    """

    def __init__(self, objective: Objective, spike_factor: float) -> None:
        self._objective = objective
        self.first_step = 0
        self.clock = 0.0
        self.seconds = 0.0
        self._spike_factor = spike_factor
        self._steps: list[_Step] = []

    def __len__(self) -> int:
        return len(self._steps)

    def append(self, number: int, batch_number: int, result: StepResult) -> None:
        """Add a step that was given to the device."""
        self._steps.append(_Step(number, batch_number, result))

    def set_share_spent(self, share: float) -> None:
        """Say what share of the budget is spent after the last step."""
        self._steps[-1].share_spent = share

    def clear(self) -> None:
        """Forget all steps: training goes back behind them."""
        self._steps = []

    def drain(self, progress: Progress) -> float:
        """Read all losses, and add them up in `progress`.

        Returns:
            The gradient's norm of the last step, before clipping.

        Raises:
            Diverged: the loss of a step did; those before it are added up.
        """
        rows = [
            torch.stack([*step.result.losses, step.result.grad_norm, step.result.is_finite])
            for step in self._steps
        ]
        found = torch.stack(rows).tolist()  # one copy for all
        now = time.perf_counter()
        seconds = (now - self.clock) / len(rows)
        self.clock = now
        names = [term.name for term in self._objective.terms]
        for step, (*sums, _, is_finite) in zip(self._steps, found, strict=True):
            losses = dict(zip(names, sums, strict=True))
            self._check(progress, step, losses, is_finite=bool(is_finite))
            self._add_up(progress, step, losses, seconds)
        self._steps = []
        return float(found[-1][-2])

    def _check(
        self, progress: Progress, step: _Step, losses: dict[str, float], *, is_finite: bool
    ) -> None:
        """Raise `Diverged` if the loss is not finite or far above those before it."""
        sizes = step.result.sizes
        if is_finite:
            loss = self._objective.loss(list(losses.values()), sizes)
            what = loss_spike(progress, loss, self._spike_factor)
        else:
            what = "the loss or its gradient is not a finite number"
        if what is not None:
            raise Diverged(what, step.number, step.batch_number)

    def _add_up(
        self, progress: Progress, step: _Step, losses: dict[str, float], seconds: float
    ) -> None:
        totals, sizes = progress.totals, step.result.sizes
        self.seconds += seconds
        progress.window.add(losses, sizes, seconds)
        if step.number == self.first_step:
            totals.first_step_seconds = seconds
        else:
            totals.timed.add(losses, sizes, seconds)
        if step.share_spent > _CLOSING_SHARE:
            totals.closing.add(losses, sizes, seconds)
        totals.cut_pairs += sizes.num_cut_pairs
        totals.cut_tokens += sizes.num_cut_tokens
