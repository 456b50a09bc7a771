"""Batches of short sequences, and then of long ones: as BERT was (Devlin et al. 2018, A.2).

Most of a run sees short sequences, which cost less; the rest teaches the later positions.
"""

from __future__ import annotations

from dataclasses import dataclass

from bertsmith.batch import Batch
from bertsmith.data.batches import Batches
from bertsmith.data.store import TokenStore


@dataclass(frozen=True)
class LengtheningBatches:
    """All batches of a run whose sequences are longer at its end: a pure function of the step.

    The long ones go on as far in their own order as the short ones came in theirs, so that the text
    is read through: of adjacent pairs, which are the same at any length, each comes once an epoch.
    """

    short: Batches
    long: Batches
    """Of the same sizes and shares of masks, which go by the step of the run."""
    num_short_steps: int
    """Steps of the run that `short` makes."""
    num_examples: int
    """Of an epoch, see `epoch_of`."""

    @property
    def store(self) -> TokenStore:
        """The text."""
        return self.long.store

    def batch(self, step: int) -> Batch:
        """The batch of optimizer step `step`, from 0."""
        places = self.short.places(step)
        if step < self.num_short_steps:
            return self.short.examples(places, step)
        first = int(self.short.places(self.num_short_steps)[0])
        begin = first * self.long.num_examples // self.short.num_examples
        return self.long.examples(places - first + begin, step)


def epoch_of(num_short: int, num_long: int, share: float) -> int:
    """Examples after which a text was read once, `share` of them short ones.

    Args:
        num_short, num_long: examples that the whole text makes, short and long.
        share: of the examples of a run.
    """
    return round(1 / (share / num_short + (1 - share) / num_long))
