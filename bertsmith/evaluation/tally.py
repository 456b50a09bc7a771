"""Figures of masked tokens: of all, by the length of their sequence, by how common they are.

Legend: M = masked tokens; N = bins; V = vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertsmith.batch import Batch, Sizes
from bertsmith.data.store import log_shares
from bertsmith.objectives import Scores
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

    def add(self, batch: Batch, scores: Scores) -> None:
        """Count the masked tokens of a batch, by the scores of each."""
        assert scores.correct is not None, "who predicts tokens guesses"
        labels = batch.masked_labels.numpy()
        nats, is_right = scores.losses.cpu().double().numpy(), scores.correct.cpu().numpy()
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

    def figures(self, name: str) -> dict[str, float | None]:
        """See `Evaluation.figures`."""
        found = {
            f"{name}_loss": self.loss,
            f"{name}_perplexity": self.perplexity,
            f"{name}_accuracy": self.accuracy,
        }
        if self.unigram_loss is not None:
            found[f"unigram_{name}_loss"] = self.unigram_loss
            found[f"unigram_{name}_accuracy"] = self.unigram_accuracy
        return found

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


class LossTally:
    """Mean loss of what a term scores, and the accuracy of its guesses if it has any.

    Args:
        count: how much of a batch it scores.
    """

    def __init__(self, count: Callable[[Sizes], int]) -> None:
        self._count = count
        self._sums = np.zeros(4)  # scored, loss, right guesses, labels that are 1
        self._has_guesses = self._has_labels = False

    def add(self, batch: Batch, scores: Scores) -> None:
        """Count what a batch has."""
        self._has_guesses, self._has_labels = scores.correct is not None, scores.labels is not None
        found = (scores.losses.double(), scores.correct, scores.labels)
        sums = (0.0 if values is None else float(values.sum()) for values in found)
        self._sums += [self._count(batch.sizes), *sums]

    def add_up(self, sum_up: Callable[[Float64], Float64]) -> None:
        """Take the sums of all ranks."""
        flags = np.array([self._has_guesses, self._has_labels], dtype=np.float64)
        *sums, guesses, labels = sum_up(np.concatenate([self._sums, flags])).tolist()
        self._sums = np.array(sums)
        self._has_guesses, self._has_labels = bool(guesses), bool(labels)

    def figures(self, name: str) -> dict[str, float | None]:
        """See `Evaluation.figures`."""
        number, loss, right, ones = self._sums.tolist()
        found: dict[str, float | None] = {f"{name}_loss": loss / number if number else None}
        if self._has_guesses:
            found[f"{name}_accuracy"] = right / number
        if self._has_labels:
            found[f"{name}_majority_accuracy"] = max(ones / number, 1 - ones / number)
        return found
