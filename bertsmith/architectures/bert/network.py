"""The original BERT (Devlin et al. 2018) on sequences laid end to end, in one file.

Post-norm encoder, pooler on [CLS], MLM head with the decoder tied to the word embeddings, NSP head.
Linear layers see real tokens only, and the MLM head masked positions only. In training the last
layer, too, makes only the vectors that a head reads: those of [CLS] and of masked tokens, about one
in six. Sequences meet the padded grid of `Layout` inside attention and nowhere else.

Legend: B = sequences; T = tokens of all of them; M = masked tokens; R = rows that a layer makes;
H = hidden size; V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.architectures.base import (
    CLASSIFIER,
    MLM_HEAD,
    NSP_HEAD,
    OF_FINE_TUNING,
    POOLER,
    Encoder,
    MlmProjection,
    call_module,
)
from bertsmith.architectures.bert.near import queries_and_keys, waves
from bertsmith.config import BertConfig
from bertsmith.hardware.device import whole_on_cpu
from bertsmith.nn.attention import attend
from bertsmith.nn.dropout import DropoutKey, dropout
from bertsmith.nn.embedding import embed
from bertsmith.nn.layout import Layout, PackedInput, TokenSubset
from bertsmith.nn.shards import put

_MATRICES_OF_A_LAYER = {
    "attention.qkv": 3,
    "attention.output": 1,
    "intermediate": 1,
    "output": 1,
}

_SITES_OF_HIDDEN = 2
"""Dropout sites of a layer beside those of its heads."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class Embeddings(nn.Module):
    """Word + position + segment, normalised."""

    def __init__(self, config: BertConfig, vocab_size: int) -> None:
        super().__init__()
        size = config.hidden_size
        self.word = nn.Embedding(vocab_size, size)
        self.position = nn.Embedding(config.max_position_embeddings, size)
        self.token_type = nn.Embedding(config.type_vocab_size, size)
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        position_ids: Tensor,
        dropout_key: DropoutKey | None,
    ) -> Tensor:
        """int64 [T] each → [T, H]."""
        words, positions = (
            embed(ids, table.weight)
            for ids, table in ((input_ids, self.word), (position_ids, self.position))
        )
        total = words + positions + self._type_of(token_type_ids)
        return dropout(self.norm(total), self.dropout_prob, dropout_key, site=0)

    def _type_of(self, token_type_ids: Tensor) -> Tensor:
        weight = self.token_type.weight
        if weight.is_cuda and len(weight) == 2:
            # The same numbers; back this has two sums, where that of an embedding is slow, since
            # all tokens meet in two rows.
            return torch.where(token_type_ids[:, None] == 0, weight[0], weight[1])
        return embed(token_type_ids, weight)


class Attention(nn.Module):
    """Multi-head self-attention within each sequence; query, key and value in one product."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        query_hidden: Tensor,
        queries: Layout,
        hidden: Tensor,
        keys: Layout,
        dropout_key: DropoutKey | None,
    ) -> Tensor:
        """Attention of `query_hidden` [R, H] to the tokens of `hidden` [T, H]: [R, H].

        On a CPU in float32, also where other products are in bfloat16: with rounded queries and
        keys next sentences are learnt later (docs/speed.md).
        """
        size = query_hidden.shape[1]
        with whole_on_cpu(hidden.device):
            if query_hidden is hidden:
                query, key, value = self.qkv(hidden).split(size, dim=1)
            else:
                weight, bias = self.qkv.weight, self.qkv.bias
                query = F.linear(query_hidden, weight[:size], bias[:size])
                key, value = F.linear(hidden, weight[size:], bias[size:]).split(size, dim=1)
            context = attend(
                query,
                key,
                value,
                queries,
                keys,
                self.num_heads,
                self.dropout_prob,
                dropout_key,
                site=_SITES_OF_HIDDEN,
            )
        mixed: Tensor = self.output(context)
        return mixed


class Layer(nn.Module):
    """Attention and feed-forward network, each with a residual and a norm after it."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_prob = config.hidden_dropout_prob
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(
        self,
        hidden: Tensor,
        layout: Layout,
        dropout_key: DropoutKey | None = None,
        subset: TokenSubset | None = None,
    ) -> Tensor:
        """[T, H] → [R, H]; the vectors of the tokens of `subset`, or of all.

        Dropout site 0 is after the attention, 1 after the feed-forward network, and the others are
        the heads'.
        """
        query_hidden, rows = hidden, layout
        if subset is not None:
            query_hidden, rows = subset.select(hidden), subset.layout
            dropout_key = dropout_key.of(subset.positions) if dropout_key else None
        mixed = self.attention(query_hidden, rows, hidden, layout, dropout_key)
        mixed = dropout(mixed, self.dropout_prob, dropout_key, 0)
        hidden = self.attention_norm(query_hidden + mixed)
        change = self.output(self.activation(self.intermediate(hidden)))
        change = dropout(change, self.dropout_prob, dropout_key, 1)
        normed: Tensor = self.output_norm(hidden + change)
        return normed


class MaskedLanguageModelHead(nn.Module):
    """Dense, activation, norm; the projection to the vocabulary is the embedding matrix, tied."""

    def __init__(self, config: BertConfig, vocab_size: int) -> None:
        super().__init__()
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        """[M, H] → [M, H]; what the embedding matrix is multiplied with."""
        transformed: Tensor = self.norm(self.activation(self.transform(hidden)))
        return transformed


class Bert(Encoder):
    """BERT with its pretraining heads, some of them, or a classifier (Devlin et al. 2018, 4.1).

    Args:
        config: the network's shape.
        vocab_size: rows of the embedding matrix.
        heads: that it has.
        num_labels: outputs of the classifier.
    """

    config: BertConfig
    classifier: nn.Linear

    def __init__(
        self,
        config: BertConfig,
        vocab_size: int,
        heads: frozenset[str] = frozenset({MLM_HEAD, POOLER, NSP_HEAD}),
        num_labels: int = 0,
    ) -> None:
        super().__init__()
        if CLASSIFIER in heads:
            heads |= {POOLER}
        self.config, self.vocab_size, self.heads = config, vocab_size, heads
        self.num_labels = num_labels
        self.embeddings = Embeddings(config, vocab_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        if POOLER in heads:
            self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        if MLM_HEAD in heads:
            self.mlm_head = MaskedLanguageModelHead(config, vocab_size)
        if NSP_HEAD in heads:
            self.nsp_head = nn.Linear(config.hidden_size, 2)
        for name in OF_FINE_TUNING & heads:
            self.add_module(name, nn.Linear(config.hidden_size, num_labels))

    def hidden_matrices(self) -> dict[str, int]:
        found = {
            f"layers.{number}.{name}.weight": count
            for number in range(len(self.layers))
            for name, count in _MATRICES_OF_A_LAYER.items()
        }
        return found | ({"mlm_head.transform.weight": 1} if MLM_HEAD in self.heads else {})

    @property
    def dropout_sites(self) -> int:
        # The embeddings' is 0; then those of each layer.
        return 1 + len(self.layers) * self._sites_of_a_layer

    @property
    def _sites_of_a_layer(self) -> int:
        return _SITES_OF_HIDDEN + self.config.num_attention_heads

    def initialize(self, seed: int, *, looks_near: bool = False) -> None:
        """Normal of `initializer_range`; biases 0, norms 1 (as the original).

        With `looks_near` position vectors are waves, and half of the first layer's heads look at
        the positions around a token (`near.py`).
        """
        generator = torch.Generator().manual_seed(seed)
        first: Any = self.layers[0]
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                # Drawn on the host: the same weights whatever the device.
                weight = torch.empty(module.weight.shape)
                weight.normal_(0.0, self.config.initializer_range, generator=generator)
                if looks_near and module is self.embeddings.position:
                    weight = waves(self.config)
                if looks_near and module is first.attention.qkv:
                    weight[: 2 * self.config.hidden_size] += queries_and_keys(self.config)
                put(module.weight, weight)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        if MLM_HEAD in self.heads:
            nn.init.zeros_(self.mlm_head.bias)

    def forward(
        self,
        inputs: PackedInput,
        subset: TokenSubset | None = None,
        call: Callable[..., Tensor] = call_module,
    ) -> Tensor:
        key, count = inputs.dropout_key, self._sites_of_a_layer
        hidden = call(self.embeddings, *inputs[:3], key.at_sites(0, 1) if key else None)
        for number, layer in enumerate(self.layers):
            own_key = key.at_sites(1 + number * count, count) if key else None
            chosen = subset if number == len(self.layers) - 1 else None
            hidden = self.call_layer(call, layer, hidden, inputs.layout, own_key, chosen)
        return hidden

    def mlm_projection(self, hidden: Tensor) -> MlmProjection:
        return MlmProjection(self.mlm_head(hidden), self.word_embedding, self.mlm_head.bias)

    @property
    def word_embedding(self) -> Tensor:
        return self.embeddings.word.weight

    @property
    def mlm_bias(self) -> nn.Parameter:
        return self.mlm_head.bias

    def pool(self, vectors: Tensor) -> Tensor:
        return torch.tanh(self.pooler(vectors))

    def nsp_logits(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.nsp_head(pooled)
        return logits

    def class_logits(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.classifier(pooled)
        return logits
