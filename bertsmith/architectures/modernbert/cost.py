"""What ModernBERT costs: arithmetic of a step, and memory for what its operations keep.

Kept bytes are added up by hand from `network.py`; a test holds the sum against what autograd keeps.

Legend: B = sequences; L = their length; T = tokens; R = tokens that a head reads; H = hidden size;
I = intermediate size; N = heads; V = vocabulary.
"""

from __future__ import annotations

import torch

from bertsmith.architectures.base import Architecture, MicroBatch, Work
from bertsmith.architectures.modernbert.network import ModernBert
from bertsmith.batch import Batch
from bertsmith.config import ModernBertConfig
from bertsmith.nn.attention import keeps_scores
from bertsmith.nn.local_attention import seen_tokens
from bertsmith.nn.loss import rows_of_chunk

_FLOAT = 4  # bytes of float32
_HALF = 2  # of bfloat16
_ID = 8  # of int64


class ModernBertCosts(Architecture[ModernBertConfig]):
    """See `Architecture`."""

    def training_flops(self, config: ModernBertConfig, vocab_size: int, work: Work) -> int:
        hidden, inner = config.hidden_size, config.intermediate_size
        count = config.num_hidden_layers
        num_global = sum(config.is_global(number) for number in range(count))
        # Of local layers an upper bound: sequences that are shorter than a window see less.
        near = min(work.num_squared, work.num_tokens * (2 * config.window + 1))
        linear = work.num_tokens * (4 * hidden**2 + 3 * hidden * inner)
        attention = 2 * hidden * (num_global * work.num_squared + (count - num_global) * near)
        head = work.num_masked * (hidden**2 + hidden * vocab_size)
        return 2 * 3 * (count * linear + attention + head)

    def skipped_flops(self, config: ModernBertConfig, batch: Batch) -> int:
        hidden, inner = config.hidden_size, config.intermediate_size
        read = [1 + number for number in batch.num_masked_each]
        tokens = batch.num_tokens - sum(read)
        left_out = tokens * (hidden**2 + 3 * hidden * inner)
        if self._is_last_global(config, max(batch.lengths)):
            # Keys and values are still made of all tokens: two of the four square products.
            scores = sum(
                length * (length - rows) for length, rows in zip(batch.lengths, read, strict=True)
            )
            left_out += tokens * hidden**2 + 2 * scores * hidden
        return 2 * 3 * left_out

    def activation_bytes(
        self,
        config: ModernBertConfig,
        vocab_size: int,
        batch: MicroBatch,
        *,
        recomputes: bool = False,
    ) -> int:
        hidden, count = config.hidden_size, config.num_hidden_layers
        read = 1 + batch.num_masked
        of_layers = [
            self._layer_bytes(config, batch, read if number == count - 1 else None, number)
            for number in range(count)
        ]
        entry = batch.num_tokens * hidden * _FLOAT
        layers = count * entry + max(of_layers) if recomputes else sum(of_layers)
        masked = batch.num_sequences * batch.num_masked
        size = _HALF if batch.is_half else _FLOAT
        # What the last norm keeps; around the head's dense layer; and the gradient that the loss
        # makes in its forward pass.
        head = batch.num_sequences * read * hidden * _FLOAT
        around = 2 + _of_activation(config.classifier_activation)
        head += masked * hidden * (around * size + _FLOAT) + vocab_size * (hidden + 1) * _FLOAT
        angles = 2 * batch.num_tokens * hidden // config.num_attention_heads * _FLOAT
        windows = batch.num_tokens * seen_tokens(config.window) * _FLOAT
        embeddings = entry + 4 * batch.num_tokens * _ID + angles + windows
        weights = 0
        if batch.is_half:  # autocast keeps what it casts until the pass is over
            with torch.device("meta"):
                model = ModernBert(config, vocab_size)
            weights = _HALF * sum(p.numel() for p in model.parameters())
        return layers + head + embeddings + weights

    def layer_bytes(
        self, config: ModernBertConfig, batch: MicroBatch, num_wanted: int | None = None
    ) -> int:
        return self._layer_bytes(config, batch, num_wanted, 0)

    def _layer_bytes(
        self, config: ModernBertConfig, batch: MicroBatch, num_wanted: int | None, number: int
    ) -> int:
        """`layer_bytes` of the layer of this number."""
        hidden, inner = config.hidden_size, config.intermediate_size
        tokens = batch.num_tokens
        wanted = batch.length if num_wanted is None else num_wanted
        rows = batch.num_sequences * wanted
        is_global = config.is_global(number) or batch.length <= config.window + 1
        queries = rows if is_global else tokens
        inners = 4 * inner  # both halves; the activated one; the product
        drops = config.drops_attention
        if is_global:
            scores = config.num_attention_heads * rows * batch.length
            dtype = torch.bfloat16 if batch.is_half else torch.float32
            noise = scores if drops else 0
            if not keeps_scores(batch.device_type, dtype, batch.length, drops=drops):
                scores = 0
        else:
            scores = config.num_attention_heads * tokens * seen_tokens(config.window)
            noise = scores if drops else 0
        noise += rows * hidden if drops else 0
        noise += rows * inner if config.mlp_dropout else 0
        # Both norms keep what goes into them; of the last layer also what it picks.
        norms = (tokens + rows) * hidden * _FLOAT
        size = _HALF if batch.is_half else _FLOAT
        of_score = _FLOAT if batch.device_type == "cpu" else size  # see nn/attention.py
        # What comes out of the norms; query; key and value; context; the feed-forward network.
        picked = rows * hidden if num_wanted is not None and is_global else 0
        linear = (tokens + rows) * hidden + picked + (queries + 2 * tokens) * hidden
        linear += rows * (hidden + inners)
        return norms + linear * size + scores * of_score + noise

    def working_bytes(self, config: ModernBertConfig, vocab_size: int, batch: MicroBatch) -> int:
        size = _HALF if batch.is_half else _FLOAT
        masked = batch.num_sequences * batch.num_masked
        logits = rows_of_chunk(masked, vocab_size) * vocab_size * size
        # Of the feed-forward network: gradients of what its activation makes, and of its input.
        wide = 4 * config.intermediate_size + 2 * config.hidden_size
        embedding = vocab_size * config.hidden_size * _FLOAT  # its gradient comes in two parts
        return max(logits, batch.num_tokens * wide * size + embedding)

    def _is_last_global(self, config: ModernBertConfig, longest: int) -> bool:
        is_global = config.is_global(config.num_hidden_layers - 1)
        return is_global or longest <= config.window + 1


def _of_activation(name: str) -> int:
    """A relu's result is enough for its gradient; others keep what goes in as well."""
    return 1 if name == "relu" else 2
