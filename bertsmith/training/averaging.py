"""A running mean of the weights, which is evaluated and saved as the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bertsmith.config import TrainingConfig
from bertsmith.nn.shards import own_part
from bertsmith.training.progress import Progress


class WeightAverage:
    """The mean of the weights after each step so far: exponential, or of the last steps.

    Training itself isn't changed by it. The exponential mean begins with a short memory, as
    TensorFlow's `ExponentialMovingAverage` with `num_updates` does: after n steps its decay is at
    most (1 + n) / (10 + n). The mean of the last steps is that of stochastic weight averaging
    (Izmailov et al. 2018), over the end of one schedule.

    Args:
        model: whose weights are averaged, on its device; of a model that is spread over ranks each
            averages its part.
        config: says which mean.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        self._config = config
        self._weights = dict(model.named_parameters())
        self.means: dict[str, Tensor] = {}
        """By parameter, of its shape, what this rank holds of it; empty before the first step."""

    @torch.no_grad()
    def update(self, progress: Progress, share_spent: float) -> None:
        """Take in the weights after a step.

        Args:
            progress: counts the steps that were averaged.
            share_spent: of the budget, the step with it.
        """
        kind = self._config.averaging
        if kind == "none" or (kind == "tail" and share_spent <= 1 - self._config.tail_ratio):
            return
        progress.num_averaged += 1
        count = progress.num_averaged
        if kind == "tail":
            new_share = 1 / count
        else:
            new_share = 1 - min(self._config.averaging_decay, count / (9 + count))
        for name, weight in self._weights.items():
            part = own_part(weight.detach())
            if count == 1:
                self.means[name] = part.clone()
            else:
                self.means[name].lerp_(part, new_share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model has the means as its weights, and `means` has the weights."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Let the model have the means as its weights, or its weights again."""
        for name, mean in self.means.items():
            part = own_part(self._weights[name].detach())
            before = part.clone()
            part.copy_(mean)
            mean.copy_(before)

    def forget(self) -> None:
        """Be as before the first step."""
        self.means.clear()
