"""What a step is, where that changes over a run: pure functions of the step's number.

So batches can be made ahead by other processes, and a run that goes on has the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from bertsmith.config import DataConfig, TrainingConfig
from bertsmith.errors import ConfigError
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
    """Steps of the first part of a run, whose sequences are shorter.

    Raises:
        ConfigError: one of the two parts would have none.
    """
    num_steps = _num_steps(training, num_examples)
    found = round(data.first_length_ratio * num_steps)
    if not 0 < found < num_steps:
        raise ConfigError(
            f"`first_length_ratio` must leave steps to both lengths; {data.first_length_ratio} of "
            f"{num_steps} are {found}. Give a longer budget, or another ratio."
        )
    return found


def short_share(data: DataConfig, training: TrainingConfig) -> float:
    """The share of a run's examples that are of its first, shorter length: 0 if there is none."""
    if data.first_max_length is None:
        return 0.0
    ratio, first = data.first_length_ratio, training.batch_size
    growth = (training.batch_size_end or first) - first
    return ratio * (first + growth * ratio / 2) / training.mean_batch


def _num_steps(training: TrainingConfig, num_examples: int) -> int:
    return int(Budget.of(training, num_examples).amount)
