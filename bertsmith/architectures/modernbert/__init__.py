"""ModernBERT (Warner et al. 2024), and Ettin and mmBERT, which are of its structure."""

from __future__ import annotations

from bertsmith.architectures.base import Encoder
from bertsmith.architectures.modernbert.cost import ModernBertCosts
from bertsmith.architectures.modernbert.hugging_face import ModernBertNames
from bertsmith.architectures.modernbert.network import ModernBert
from bertsmith.config import ModernBertConfig


class ModernBertArchitecture(ModernBertNames, ModernBertCosts):
    """`transformers.ModernBertForMaskedLM` and its kin."""

    def build(
        self, config: ModernBertConfig, vocab_size: int, heads: frozenset[str], num_labels: int
    ) -> Encoder:
        return ModernBert(config, vocab_size, heads, num_labels)
