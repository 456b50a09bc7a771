"""What a step is, where that changes over a run: pure functions of the step's number.

So batches can be made ahead by other processes, and a run that goes on has the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from bertsmith.config import DataConfig, TrainingConfig
from bertsmith.training.budget import Budget


@dataclass(frozen=True)
class MaskSchedule:
    """The share of tokens to predict in a step: on a straight line over the steps of a run."""

    first: float
    last: float
    num_steps: int

    def __call__(self, step: int) -> float:
        progress = min(1.0, (step + 0.5) / self.num_steps)
        return self.first + progress * (self.last - self.first)


@dataclass(frozen=True)
class BatchSchedule:
    """The first example of a step's batch; sizes are on a straight line over the steps of a run."""

    first: int
    last: int
    num_steps: int

    def __call__(self, step: int) -> int:
        within = min(step, self.num_steps)
        # In whole numbers, which are exact: half of `within` times the sum of two sizes.
        rise = (self.last - self.first) * within
        doubled = within * (2 * self.first * self.num_steps + rise)
        return doubled // (2 * self.num_steps) + self.last * (step - within)


def mask_schedule(
    data: DataConfig, training: TrainingConfig, num_examples: int
) -> float | MaskSchedule:
    """The share of tokens to predict, or what gives it for a step."""
    if data.mlm_probability_end is None:
        return data.mlm_probability
    return MaskSchedule(
        data.mlm_probability, data.mlm_probability_end, _num_steps(training, num_examples)
    )


def batch_schedule(training: TrainingConfig, num_examples: int) -> BatchSchedule | None:
    """Where the batches of a run begin; None: all are of one size."""
    if training.batch_size_end is None:
        return None
    num_steps = _num_steps(training, num_examples)
    return BatchSchedule(training.batch_size, training.batch_size_end, num_steps)


def num_short_steps(data: DataConfig, training: TrainingConfig, num_examples: int) -> int:
    """Steps of the first part of a run, whose sequences are shorter."""
    return round(data.first_length_ratio * _num_steps(training, num_examples))


def _num_steps(training: TrainingConfig, num_examples: int) -> int:
    return int(Budget.of(training, num_examples).amount)
