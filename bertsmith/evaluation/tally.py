"""Figures of masked tokens: of all, by the length of their sequence, by how common they are.

Legend: M = masked tokens; N = bins; V = vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bertsmith.batch import Batch
from bertsmith.data.store import log_shares
from bertsmith.random_bits import Int64

Float64 = npt.NDArray[np.float64]

LENGTHS = np.array([1, 17, 33, 65, 129, 257, 513, 1025, 2049], dtype=np.int64)
"""Where bins of sequence lengths begin, in tokens."""

COUNTS = np.array([0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000], dtype=np.int64)
"""Where bins of a token's count in the training text begin."""


_LARGEST_EXPONENT = 700.0  # of e, that a float holds


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Masked tokens of which something lies between two bounds."""

    least: int
    most: int | None
    """None: without an end."""
    num_tokens: int
    loss: float
    """Mean cross entropy, in nats."""
    accuracy: float
    """Share of first guesses that are right."""
    unigram_loss: float | None
    """What word frequencies alone would give; None if they are not known."""

    @property
    def name(self) -> str:
        """As a row of a table is called: "17–32"."""
        if self.most is None:
            return f"{self.least:,} and more"
        return f"{self.least:,}" if self.least == self.most else f"{self.least:,}–{self.most:,}"


class Breakdown:
    """Sums by bin.

    Args:
        starts: int64 [N], rising; where each bin begins.
    """

    def __init__(self, starts: Int64) -> None:
        self._starts = starts
        self._sums = np.zeros((4, len(starts)))

    def add(
        self, values: Int64, losses: Float64, right: npt.NDArray[np.bool_], unigram: Float64
    ) -> None:
        """Count M masked tokens.

        Args:
            values: int64 [M]; what they are sorted by, not under the first bin's beginning.
            losses: float [M], in nats.
            right: bool [M].
            unigram: float [M]; loss by word frequencies alone, NaN if these are not known.
        """
        place = np.searchsorted(self._starts, values, side="right") - 1
        for row, weights in enumerate((np.ones(len(values)), losses, right, unigram)):
            self._sums[row] += np.bincount(place, weights, len(self._starts))

    def add_up(self, sum_up: Callable[[Float64], Float64]) -> None:
        """Take the sums of all ranks."""
        self._sums = sum_up(self._sums)

    def bins(self) -> tuple[Bin, ...]:
        """Those that are not empty, lowest first."""
        found = []
        for number, (count, loss, right, unigram) in enumerate(self._sums.T.tolist()):
            if not count:
                continue
            is_last = number + 1 == len(self._starts)
            found.append(
                Bin(
                    least=int(self._starts[number]),
                    most=None if is_last else int(self._starts[number + 1]) - 1,
                    num_tokens=int(count),
                    loss=loss / count,
                    accuracy=right / count,
                    unigram_loss=None if math.isnan(unigram) else unigram / count,
                )
            )
        return tuple(found)


def perplexity_of(loss: float) -> float:
    """exp(`loss`), of a loss in nats; bounded, since JSON has no infinity."""
    return math.exp(min(loss, _LARGEST_EXPONENT))


class MaskedTally:
    """What is added up over masked tokens.

    Args:
        counts: int64 [V]; how often each entry stands in the training text, special tokens 0. Gives
            the figures of word frequencies, and those by frequency; None: it is not known.
    """

    def __init__(self, counts: Int64 | None) -> None:
        self.by_length = Breakdown(LENGTHS)
        self.by_frequency = Breakdown(COUNTS)
        self.num_tokens = 0
        self._counts = counts
        self._log_shares = None if counts is None else log_shares(counts)
        self._sums = np.zeros(4)

    def add(self, batch: Batch, losses: Tensor, right: Tensor) -> None:
        """Count the masked tokens of a batch: float32 [M] in nats, bool [M]."""
        labels = batch.masked_labels.numpy()
        nats, is_right = losses.cpu().double().numpy(), right.cpu().numpy()
        unigram: Float64 = np.full(len(labels), np.nan)
        is_commonest = np.zeros(len(labels))
        if self._counts is not None and self._log_shares is not None:
            unigram = -self._log_shares[labels].astype(np.float64)
            is_commonest = labels == self._counts.argmax()
            self.by_frequency.add(self._counts[labels], nats, is_right, unigram)
        lengths = np.repeat(np.array(batch.lengths), batch.num_masked_each)
        self.by_length.add(lengths, nats, is_right, unigram)
        self.num_tokens += len(labels)
        self._sums += [nats.sum(), is_right.sum(), unigram.sum(), is_commonest.sum()]

    def add_up(self, sum_up: Callable[[Float64], Float64]) -> None:
        """Take what all ranks counted.

        Args:
            sum_up: gives the sum of the ranks' arrays.
        """
        self.by_length.add_up(sum_up)
        self.by_frequency.add_up(sum_up)
        *sums, num_tokens = sum_up(np.array([*self._sums, self.num_tokens])).tolist()
        self._sums, self.num_tokens = np.array(sums), int(num_tokens)

    @property
    def frequency_bins(self) -> tuple[Bin, ...]:
        """Empty if word counts are not known."""
        return () if self._counts is None else self.by_frequency.bins()

    @property
    def perplexity(self) -> float | None:
        """exp(`loss`): among so many words, all alike, a guess would be as hard."""
        return None if self.loss is None else perplexity_of(self.loss)

    @property
    def loss(self) -> float | None:
        """Mean over masked tokens, in nats; None without any: nothing is not perfect."""
        return self._mean(0)

    @property
    def accuracy(self) -> float | None:
        """Share of first guesses that are right; None without any."""
        return self._mean(1)

    @property
    def unigram_loss(self) -> float | None:
        """Mean that word frequencies alone would give, in nats."""
        return None if self._counts is None else self._mean(2)

    @property
    def unigram_accuracy(self) -> float | None:
        """Share of the most frequent word."""
        return None if self._counts is None else self._mean(3)

    def _mean(self, row: int) -> float | None:
        return float(self._sums[row]) / self.num_tokens if self.num_tokens else None
