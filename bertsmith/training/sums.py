"""Losses and sizes added up over some steps, and the true means of them."""

from __future__ import annotations

from dataclasses import dataclass

from bertsmith.batch import Sizes
from bertsmith.training.step import Losses


@dataclass(kw_only=True)
class Sums:
    """Totals over some steps; means are over all masked tokens and over all pairs in them."""

    mlm: float = 0.0
    nsp: float = 0.0
    num_masked: int = 0
    num_sequences: int = 0
    num_pairs: int = 0
    num_tokens: int = 0
    num_squared: int = 0
    """Sum of the squared lengths."""
    seconds: float = 0.0

    def add(self, losses: Losses, sizes: Sizes, seconds: float) -> None:
        """Count one step, of so many seconds of wall clock."""
        self.mlm += losses.mlm
        self.nsp += losses.nsp
        self.num_masked += sizes.num_masked
        self.num_sequences += sizes.num_sequences
        self.num_pairs += sizes.num_pairs
        self.num_tokens += sizes.num_tokens
        self.num_squared += sizes.num_squared
        self.seconds += seconds

    def means(self) -> dict[str, float | None]:
        """`mlm_loss` in nats a masked token, and of pairs `nsp_loss` in nats a pair.

        Without a masked token, as where all words of a few examples are unknown, the loss is None.
        """
        means = {"mlm_loss": self.mlm / self.num_masked if self.num_masked else None}
        if self.num_pairs:
            means["nsp_loss"] = self.nsp / self.num_pairs
        return means

    def throughput(self) -> dict[str, float]:
        """Pairs (or segments) and real tokens a second."""
        seconds = max(self.seconds, 1e-9)
        name = "sentence_pairs" if self.num_pairs else "segments"
        return {
            f"{name}_per_second": self.num_sequences / seconds,
            "tokens_per_second": self.num_tokens / seconds,
        }
