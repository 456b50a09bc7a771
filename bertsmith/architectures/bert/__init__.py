"""The original BERT (Devlin et al. 2018)."""

from __future__ import annotations

from bertsmith.architectures.base import Encoder
from bertsmith.architectures.bert.cost import BertCosts
from bertsmith.architectures.bert.hugging_face import BertNames
from bertsmith.architectures.bert.network import Bert
from bertsmith.config import BertConfig


class BertArchitecture(BertNames, BertCosts):
    """`transformers.BertForPreTraining` and its kin."""

    def build(
        self, config: BertConfig, vocab_size: int, heads: frozenset[str], num_labels: int
    ) -> Encoder:
        return Bert(config, vocab_size, heads, num_labels)
