"""What BERT costs: arithmetic of a step, and memory for what its operations keep.

Kept bytes are added up by hand from `network.py`; a test holds the sum against what autograd keeps.

Legend: B = sequences; L = their length; T = tokens; R = tokens that a head reads; H = hidden size;
I = intermediate size; N = heads; V = vocabulary.
"""

from __future__ import annotations

import torch

from bertsmith.architectures.base import Architecture, MicroBatch, Work
from bertsmith.architectures.bert.network import Bert
from bertsmith.batch import Batch
from bertsmith.config import BertConfig
from bertsmith.nn.attention import keeps_scores
from bertsmith.nn.loss import rows_of_chunk

_FLOAT = 4  # bytes of float32
_HALF = 2  # of bfloat16
_ID = 8  # of int64


class BertCosts(Architecture[BertConfig]):
    """See `Architecture`."""

    def training_flops(self, config: BertConfig, vocab_size: int, work: Work) -> int:
        hidden, inner = config.hidden_size, config.intermediate_size
        linear = work.num_tokens * (4 * hidden**2 + 2 * hidden * inner)
        attention = 2 * work.num_squared * hidden
        head = work.num_masked * (hidden**2 + hidden * vocab_size)
        pooler = work.num_sequences * (hidden**2 + 2 * hidden)
        forward = config.num_hidden_layers * (linear + attention) + head + pooler
        return 2 * 3 * forward

    def skipped_flops(self, config: BertConfig, batch: Batch) -> int:
        hidden, inner = config.hidden_size, config.intermediate_size
        read = [1 + number for number in batch.num_masked_each]
        tokens = batch.num_tokens - sum(read)
        scores = sum(
            length * (length - rows) for length, rows in zip(batch.lengths, read, strict=True)
        )
        # Keys and values are still made of all tokens: two of the four square products.
        return 2 * 3 * (tokens * (2 * hidden**2 + 2 * hidden * inner) + 2 * scores * hidden)

    def activation_bytes(
        self, config: BertConfig, vocab_size: int, batch: MicroBatch, *, recomputes: bool = False
    ) -> int:
        hidden = config.hidden_size
        read = 1 + batch.num_masked
        layer = self.layer_bytes(config, batch)
        last = self.layer_bytes(config, batch, read)
        entry = batch.num_tokens * hidden * _FLOAT
        if recomputes:
            layers = config.num_hidden_layers * entry + max(layer, last)
        else:
            layers = (config.num_hidden_layers - 1) * layer + last
        masked = batch.num_sequences * batch.num_masked
        size = _HALF if batch.is_half else _FLOAT
        # Around the head's dense layer, and the gradient that the loss makes in its forward pass.
        around = 2 + _of_activation(config)
        head = masked * hidden * (around * size + _FLOAT) + vocab_size * (hidden + 1) * _FLOAT
        embeddings = 2 * entry + 4 * batch.num_tokens * _ID
        weights = 0
        if batch.is_half:  # autocast keeps what it casts until the pass is over
            with torch.device("meta"):
                model = Bert(config, vocab_size)
            weights = _HALF * sum(p.numel() for p in model.parameters())
        return layers + head + embeddings + weights

    def layer_bytes(
        self, config: BertConfig, batch: MicroBatch, num_wanted: int | None = None
    ) -> int:
        hidden, inner = config.hidden_size, config.intermediate_size
        wanted = batch.length if num_wanted is None else num_wanted
        rows = batch.num_sequences * wanted
        inners = _of_activation(config) * inner
        keys = 2 * hidden * batch.num_tokens
        is_last = wanted < batch.length
        scores = config.num_attention_heads * rows * batch.length
        drops = bool(config.attention_probs_dropout_prob)
        noise = rows * 2 * hidden if config.hidden_dropout_prob else 0
        noise += scores if drops else 0
        dtype = torch.bfloat16 if batch.is_half else torch.float32
        if not keeps_scores(batch.device_type, dtype, batch.length, drops=drops):
            scores = 0
        if batch.is_half:
            # Norms keep float32; the linear layers their inputs, cast; attention what it was given.
            kept = rows * (2 * hidden * _FLOAT + (2 * hidden + inners) * _HALF)
            # On a CPU attention and what goes into it are in float32: see network.py.
            size = _FLOAT if batch.device_type == "cpu" else _HALF
            return kept + (2 * hidden * rows + keys + scores) * size + noise
        # Two norms, what goes into them and comes out; query; context; of the last what it picks.
        kept = rows * (6 * hidden + inners + (hidden if is_last else 0))
        return (kept + keys + scores) * _FLOAT + noise

    def working_bytes(self, config: BertConfig, vocab_size: int, batch: MicroBatch) -> int:
        size = _HALF if batch.is_half else _FLOAT
        masked = batch.num_sequences * batch.num_masked
        logits = rows_of_chunk(masked, vocab_size) * vocab_size * size
        backward = batch.num_tokens * (config.intermediate_size + 2 * config.hidden_size) * size
        embedding = vocab_size * config.hidden_size * _FLOAT  # its gradient comes in two parts
        return max(logits, backward + embedding)


def _of_activation(config: BertConfig) -> int:
    """A gelu keeps what goes in beside what comes out; of a relu one is enough."""
    return 2 if config.hidden_act == "gelu" else 1
