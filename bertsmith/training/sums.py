"""Losses and sizes added up over some steps, and the true means of them."""

from __future__ import annotations

from dataclasses import dataclass

from bertsmith.data.batches import Batch
from bertsmith.training.step import Losses


@dataclass(kw_only=True)
class Sums:
    """Totals over some steps; means are over all masked tokens and over all pairs in them."""

    mlm: float = 0.0
    nsp: float = 0.0
    masked: int = 0
    pairs: int = 0
    tokens: int = 0
    squared: int = 0
    """Sum of the squared lengths."""
    seconds: float = 0.0

    def add(self, losses: Losses, batch: Batch, seconds: float) -> None:
        """Count one step, of so many seconds of wall clock."""
        self.mlm += losses.mlm
        self.nsp += losses.nsp
        self.masked += batch.num_masked
        self.pairs += batch.num_sequences
        self.tokens += batch.num_tokens
        self.squared += batch.num_squared
        self.seconds += seconds

    def means(self) -> dict[str, float]:
        """`mlm_loss` in nats a masked token, `nsp_loss` in nats a pair."""
        return {
            "mlm_loss": self.mlm / max(self.masked, 1),
            "nsp_loss": self.nsp / max(self.pairs, 1),
        }

    def throughput(self) -> dict[str, float]:
        """Pairs and real tokens a second."""
        seconds = max(self.seconds, 1e-9)
        return {
            "sentence_pairs_per_second": self.pairs / seconds,
            "tokens_per_second": self.tokens / seconds,
        }
