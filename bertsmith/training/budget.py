"""How far a run is, whatever its budget is counted in, and what is due on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bertsmith.config import BUDGETS, TrainingConfig

_DIGITS = 9


@dataclass(kw_only=True)
class Spent:
    """What a run has used so far."""

    step: int = 0
    """Optimizer steps done."""
    pairs: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """Wall clock since training began, validation and checkpoints counted."""


@dataclass(frozen=True)
class Budget:
    """The end of a run: so many of `unit` (steps, tokens or seconds)."""

    unit: str
    amount: float

    @staticmethod
    def of(config: TrainingConfig, num_pairs: int) -> Budget:
        """From the settings; epochs and pairs are turned into whole steps.

        Args:
            config: with one of `BUDGETS` set.
            num_pairs: pairs an epoch.
        """
        unit = next(name for name in BUDGETS if getattr(config, name) is not None)
        amount = getattr(config, unit)
        if unit == "minutes":
            return Budget("seconds", 60 * amount)
        if unit in ("epochs", "pairs"):
            pairs = amount * num_pairs if unit == "epochs" else amount
            return Budget("steps", max(1, math.ceil(pairs / config.mean_batch)))
        return Budget(unit, amount)

    def progress(self, spent: Spent) -> float:
        """The share of the budget that is spent, at most 1."""
        used = {"steps": spent.step, "tokens": spent.tokens, "seconds": spent.seconds}[self.unit]
        return min(1.0, used / self.amount)

    def middle_of_step(self, spent: Spent) -> float:
        """Progress half-way through the step that begins now, by the mean step so far.

        A learning rate taken at a step's beginning would be 0 in the first step, at its end 0 in
        the last.
        """
        first = 1 / self.amount if self.unit == "steps" else 0.0
        stride = self.progress(spent) / spent.step if spent.step else first
        return min(1.0, self.progress(spent) + stride / 2)


def is_due(every_steps: int | None, times: int, spent: Spent, before: float, after: float) -> bool:
    """Whether something that happens along the run is due after this step.

    Args:
        every_steps: its interval, or None: so often that it happens about `times` in the run.
        times: see there.
        spent: after the step.
        before, after: progress before and after the step.
    """
    if every_steps is not None:
        return spent.step % every_steps == 0
    # A share such as 0.29 of 100 steps comes out as 28.999…
    return int(round(after * times, _DIGITS)) > int(round(before * times, _DIGITS))
