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
    num_masked: int = 0
    num_sequences: int = 0
    num_tokens: int = 0
    num_squared: int = 0
    """Sum of the squared lengths."""
    seconds: float = 0.0

    def add(self, losses: Losses, batch: Batch, seconds: float) -> None:
        """Count one step, of so many seconds of wall clock."""
        self.mlm += losses.mlm
        self.nsp += losses.nsp
        self.num_masked += batch.num_masked
        self.num_sequences += batch.num_sequences
        self.num_tokens += batch.num_tokens
        self.num_squared += batch.num_squared
        self.seconds += seconds

    def means(self) -> dict[str, float]:
        """`mlm_loss` in nats a masked token, `nsp_loss` in nats a pair."""
        return {
            "mlm_loss": self.mlm / max(self.num_masked, 1),
            "nsp_loss": self.nsp / max(self.num_sequences, 1),
        }

    def throughput(self) -> dict[str, float]:
        """Pairs and real tokens a second."""
        seconds = max(self.seconds, 1e-9)
        return {
            "sentence_pairs_per_second": self.num_sequences / seconds,
            "tokens_per_second": self.num_tokens / seconds,
        }
