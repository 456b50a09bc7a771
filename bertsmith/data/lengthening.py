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
    """All batches of a run whose sequences are longer at its end: a pure function of the step."""

    short: Batches
    long: Batches
    """Of the same sizes and shares of masks, which go by the step of the run."""
    ratio: float
    """Share of the run's steps that `short` makes."""
    num_short_steps: int

    @property
    def num_examples(self) -> int:
        """Of an epoch: after so many examples of a whole run the text was read once on average."""
        return epoch_of(self.short.num_examples, self.long.num_examples, self.ratio)

    @property
    def store(self) -> TokenStore:
        """The text."""
        return self.long.store

    def batch(self, step: int) -> Batch:
        """The batch of optimizer step `step`, from 0."""
        places = self.short.places(step)
        if step < self.num_short_steps:
            return self.short.examples(places, step)
        return self.long.examples(places - self.short.places(self.num_short_steps)[0], step)


def epoch_of(num_short: int, num_long: int, ratio: float) -> int:
    """Examples after which a text was read once, `ratio` of them short ones.

    Args:
        num_short, num_long: examples that the whole text makes, short and long.
        ratio: share of the examples that are short.
    """
    return round(1 / (ratio / num_short + (1 - ratio) / num_long))
