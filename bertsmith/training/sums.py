"""Losses and sizes added up over some steps, and the true means of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bertsmith.batch import Sizes
from bertsmith.objectives import Objective


@dataclass(kw_only=True)
class Sums:
    """Totals over some steps; means are over all that a term scores in them."""

    losses: dict[str, float] = field(default_factory=dict)
    """Of each term of the objective, in nats."""
    num_masked: int = 0
    num_sequences: int = 0
    num_pairs: int = 0
    num_tokens: int = 0
    num_squared: int = 0
    """Sum of the squared lengths."""
    seconds: float = 0.0

    def add(self, losses: Mapping[str, float], sizes: Sizes, seconds: float) -> None:
        """Count one step, of so many seconds of wall clock."""
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + loss
        self.num_masked += sizes.num_masked
        self.num_sequences += sizes.num_sequences
        self.num_pairs += sizes.num_pairs
        self.num_tokens += sizes.num_tokens
        self.num_squared += sizes.num_squared
        self.seconds += seconds

    def means(self, objective: Objective) -> dict[str, float | None]:
        """`mlm_loss` and the like, in nats by what the term scores.

        Where nothing was scored, as where all words of a few examples are unknown, a loss is None.
        """
        means = {}
        for term in objective.terms:
            count = term.count(self._sizes)
            means[f"{term.name}_loss"] = self.losses.get(term.name, 0.0) / count if count else None
        return means

    @property
    def _sizes(self) -> Sizes:
        return Sizes(
            num_sequences=self.num_sequences,
            num_pairs=self.num_pairs,
            num_tokens=self.num_tokens,
            num_masked=self.num_masked,
            num_squared=self.num_squared,
            num_cut_pairs=0,
            num_cut_tokens=0,
        )

    def throughput(self) -> dict[str, float]:
        """Pairs (or segments) and real tokens a second."""
        seconds = max(self.seconds, 1e-9)
        name = "sentence_pairs" if self.num_pairs else "segments"
        return {
            f"{name}_per_second": self.num_sequences / seconds,
            "tokens_per_second": self.num_tokens / seconds,
        }
