"""How divergence is detected: in the loss of a step, and in the weights."""

from __future__ import annotations

import torch
from torch import nn

from bertsmith.nn.shards import own_part
from bertsmith.ranks import Ranks
from bertsmith.training.progress import Progress

_MEAN_OVER = 100  # steps that the running mean of the loss goes back, about
_LEAST_SPIKE = 1.0  # nats; a loss near 0 may well double


class Diverged(Exception):  # noqa: N818 (not an error yet: training may go back and go on)
    """The loss or the weights diverged.

    Args:
        what: was seen, as a part of a sentence.
        step: after which it was.
        batch_number: of that step.
    """

    def __init__(self, what: str, step: int, batch_number: int) -> None:
        super().__init__(what)
        self.step, self.batch_number = step, batch_number


def loss_spike(progress: Progress, loss: float, spike_factor: float) -> str | None:
    """Compare a step's loss with the running mean, and add it to the mean if it is no spike.

    Args:
        progress: of the run; it has the running mean.
        loss: the sum of the step's mean losses, in nats; finite.
        spike_factor: how many times the mean is a spike; 0: nothing is.

    Returns:
        What was seen, or None.
    """
    mean = progress.mean_loss
    if mean is None:
        mean = loss
    elif spike_factor and loss > max(spike_factor * mean, mean + _LEAST_SPIKE):
        return f"the loss rose to {loss:.3f} from a mean of {mean:.3f}"
    progress.mean_loss = mean + (loss - mean) / _MEAN_OVER
    return None


def has_finite_weights(model: nn.Module, ranks: Ranks) -> bool:
    """Whether all weights on all ranks are finite.

    An update that overflows is seen neither in the losses before it nor in the gradients.
    """
    parts = map(own_part, model.parameters())
    return not ranks.any(not all(bool(torch.isfinite(part).all()) for part in parts))
