"""ModernBERT (Warner et al. 2024) on sequences laid end to end, in one file.

Pre-norm encoder without position or segment embeddings: rotary positions, gated feed-forward
networks, attention to the whole sequence in every third layer and to a window in the others. The
modules have the names that they have in Hugging Face's transformers.

Linear layers see real tokens only, and the MLM head masked positions only. In training the last
layer makes only the vectors that a head reads. Where it is local its attention is made of all
tokens, since the windows of what is read cover nearly all of them.

Legend: B = sequences; T = tokens of all of them; M = masked tokens; R = rows that a layer makes;
H = hidden size; I = intermediate size; V = vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.architectures.base import (
    MLM_HEAD,
    OF_FINE_TUNING,
    Encoder,
    MlmProjection,
    call_module,
)
from bertsmith.config import ModernBertConfig
from bertsmith.nn.attention import attend
from bertsmith.nn.dropout import DropoutKey, dropout
from bertsmith.nn.embedding import embed
from bertsmith.nn.layout import Layout, PackedInput, TokenSubset
from bertsmith.nn.local_attention import Windows, attend_locally
from bertsmith.nn.padded import PaddedLayout
from bertsmith.nn.rotary import Rotation, rotate_
from bertsmith.nn.shards import put

HEAD = "head"
"""The dense layer, activation and norm that the MLM head and a classifier begin with."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "relu": F.relu,
}

_MATRICES_OF_A_LAYER: Mapping[str, int] = {"attn.Wqkv": 3, "attn.Wo": 1, "mlp.Wi": 2, "mlp.Wo": 1}

_SITES_OF_HIDDEN = 2
"""Dropout sites of a layer beside those of its heads."""


class Tokens(NamedTuple):
    """How the tokens of a batch lie, for one kind of layer."""

    layout: Layout | PaddedLayout
    rotation: Rotation
    windows: Windows | None
    """Of local layers; None: each token attends to its whole sequence."""


class Embeddings(nn.Module):
    """Of words alone, normalised."""

    def __init__(self, config: ModernBertConfig, vocab_size: int) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(vocab_size, config.hidden_size)
        self.norm = _norm(config)
        self.dropout_prob = config.embedding_dropout

    def forward(self, input_ids: Tensor, dropout_key: DropoutKey | None) -> Tensor:
        """int64 [T] → [T, H]."""
        hidden = self.norm(embed(input_ids, self.tok_embeddings.weight))
        return dropout(hidden, self.dropout_prob, dropout_key, site=0)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions; query, key and value in one product."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.attention_dropout
        self.Wqkv = nn.Linear(
            config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias
        )
        self.Wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)

    def forward(
        self,
        hidden: Tensor,
        tokens: Tokens,
        dropout_key: DropoutKey | None,
        subset: TokenSubset | None,
    ) -> Tensor:
        """[T, H] → [R, H]; of the tokens of `subset`, or of all."""
        size = hidden.shape[1]
        if tokens.windows is None and subset is not None:
            context = self._global_of(subset, hidden, tokens, dropout_key)
        else:
            projected = rotate_(self.Wqkv(hidden), tokens.rotation, 2 * size)
            query, key, value = projected.split(size, dim=1)
            how = (self.num_heads, self.dropout_prob, dropout_key)
            if tokens.windows is None:
                layout = tokens.layout
                context = attend(query, key, value, layout, layout, *how, site=_SITES_OF_HIDDEN)
            else:
                windows = tokens.windows
                context = attend_locally(query, key, value, windows, *how, site=_SITES_OF_HIDDEN)
                context = context if subset is None else subset.select(context)
        mixed: Tensor = self.Wo(context)
        return mixed

    def _global_of(
        self,
        subset: TokenSubset,
        hidden: Tensor,
        tokens: Tokens,
        dropout_key: DropoutKey | None,
    ) -> Tensor:
        size, weight, bias = hidden.shape[1], self.Wqkv.weight, self.Wqkv.bias
        of_query, of_rest = (None, None) if bias is None else (bias[:size], bias[size:])
        query = F.linear(subset.select(hidden), weight[:size], of_query)
        query = rotate_(query, tokens.rotation.of_rows(subset.positions), size)
        projected = rotate_(F.linear(hidden, weight[size:], of_rest), tokens.rotation, size)
        key, value = projected.split(size, dim=1)
        return attend(
            query,
            key,
            value,
            subset.layout,
            tokens.layout,
            self.num_heads,
            self.dropout_prob,
            dropout_key.of(subset.positions) if dropout_key else None,
            site=_SITES_OF_HIDDEN,
        )


class GatedMlp(nn.Module):
    """activation(x W) * (x V), and back (Shazeer 2020, section 2); W and V in one product."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.Wi = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.Wo = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.hidden_activation]
        self.dropout_prob = config.mlp_dropout

    def forward(self, hidden: Tensor, dropout_key: DropoutKey | None) -> Tensor:
        """[R, H] → [R, H]."""
        activated, gate = self.Wi(hidden).chunk(2, dim=1)
        inner = self.activation(activated) * gate
        change: Tensor = self.Wo(dropout(inner, self.dropout_prob, dropout_key, site=1))
        return change


class Layer(nn.Module):
    """Attention and feed-forward network, each behind a norm and beside a residual.

    The first layer has no norm before attention: the embeddings are normalised.
    """

    def __init__(self, config: ModernBertConfig, *, is_first: bool) -> None:
        super().__init__()
        self.attn_norm = nn.Identity() if is_first else _norm(config)
        self.attn = Attention(config)
        self.mlp_norm = _norm(config)
        self.mlp = GatedMlp(config)

    def forward(
        self,
        hidden: Tensor,
        tokens: Tokens,
        dropout_key: DropoutKey | None = None,
        subset: TokenSubset | None = None,
    ) -> Tensor:
        """[T, H] → [R, H]; the vectors of the tokens of `subset`, or of all.

        Dropout site 0 is after the attention, 1 in the feed-forward network, and the others are the
        heads'.
        """
        mixed = self.attn(self.attn_norm(hidden), tokens, dropout_key, subset)
        if subset is not None:
            hidden = subset.select(hidden)
            dropout_key = dropout_key.of(subset.positions) if dropout_key else None
        hidden = hidden + dropout(mixed, self.attn.dropout_prob, dropout_key, site=0)
        change: Tensor = self.mlp(self.mlp_norm(hidden), dropout_key)
        return hidden + change


class PredictionHead(nn.Module):
    """Dense, activation, norm."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.classifier_bias)
        self.norm = _norm(config)
        self.activation = ACTIVATIONS[config.classifier_activation]

    def forward(self, hidden: Tensor) -> Tensor:
        """[R, H] → [R, H]."""
        transformed: Tensor = self.norm(self.activation(self.dense(hidden)))
        return transformed


class Decoder(nn.Module):
    """What the MLM head has besides `HEAD`: a bias. The matrix is that of the embeddings, tied."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size))


class ModernBert(Encoder):
    """ModernBERT with its MLM head, or with a classifier.

    Args:
        config: the network's shape.
        vocab_size: rows of the embedding matrix.
        heads: that it has.
        num_labels: outputs of the classifier.
    """

    config: ModernBertConfig
    classifier: nn.Linear

    def __init__(
        self,
        config: ModernBertConfig,
        vocab_size: int,
        heads: frozenset[str] = frozenset({MLM_HEAD}),
        num_labels: int = 0,
    ) -> None:
        super().__init__()
        if heads:
            heads |= {HEAD}
        self.config, self.vocab_size, self.heads = config, vocab_size, heads
        self.num_labels = num_labels
        self.embeddings = Embeddings(config, vocab_size)
        self.layers = nn.ModuleList(
            Layer(config, is_first=number == 0) for number in range(config.num_hidden_layers)
        )
        self.final_norm = _norm(config)
        if HEAD in heads:
            self.head = PredictionHead(config)
        if MLM_HEAD in heads:
            self.mlm_head = Decoder(vocab_size)
        for name in OF_FINE_TUNING & heads:
            self.add_module(name, nn.Linear(config.hidden_size, num_labels))

    def hidden_matrices(self) -> dict[str, int]:
        found = {
            f"layers.{number}.{name}.weight": count
            for number in range(len(self.layers))
            for name, count in _MATRICES_OF_A_LAYER.items()
        }
        return found | ({"head.dense.weight": 1} if MLM_HEAD in self.heads else {})

    @property
    def dropout_sites(self) -> int:
        # The embeddings' is 0; then those of each layer.
        return 1 + len(self.layers) * self._sites_of_a_layer

    @property
    def _sites_of_a_layer(self) -> int:
        return _SITES_OF_HIDDEN + self.config.num_attention_heads

    @property
    def pools_all(self) -> bool:
        return self.config.classifier_pooling == "mean"

    def initialize(self, seed: int, *, looks_near: bool = False) -> None:
        """Truncated normal as Hugging Face's: narrower for what is added to the residual.

        `initializer_range`, over √(2 · layers) for `Wo` and the head, 1 / √H for a classifier;
        biases 0, norms 1. There is no beginning that looks near.
        """
        config, generator = self.config, torch.Generator().manual_seed(seed)
        usual = config.initializer_range
        narrow = usual / math.sqrt(2 * config.num_hidden_layers)
        deviations = {"Wo": narrow, "dense": narrow}
        deviations |= dict.fromkeys(OF_FINE_TUNING, config.hidden_size**-0.5)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                # Drawn on the host: the same weights whatever the device.
                weight = torch.empty(module.weight.shape)
                deviation = deviations.get(name.rpartition(".")[2], usual)
                bound = config.initializer_cutoff_factor * deviation
                nn.init.trunc_normal_(weight, 0.0, deviation, -bound, bound, generator=generator)
                put(module.weight, weight)
            if isinstance(module, nn.Linear) and module.bias is not None:
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
        hidden = call(self.embeddings, inputs.input_ids, key.at_sites(0, 1) if key else None)
        everywhere, near = self._tokens(inputs, hidden)
        for number, layer in enumerate(self.layers):
            tokens = everywhere if self.config.is_global(number) else near
            own_key = key.at_sites(1 + number * count, count) if key else None
            chosen = subset if number == len(self.layers) - 1 else None
            hidden = self.call_layer(call, layer, hidden, tokens, own_key, chosen)
        normed: Tensor = self.final_norm(hidden)
        return normed

    def _tokens(self, inputs: PackedInput, hidden: Tensor) -> tuple[Tokens, Tokens]:
        """For global layers and for local ones."""
        config, layout = self.config, inputs.layout
        head_size = config.hidden_size // config.num_attention_heads
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        everywhere, near = (
            Rotation.of(inputs.position_ids, head_size, theta, dtype)
            for theta in (config.global_rope_theta, config.local_rope_theta)
        )
        if isinstance(layout, PaddedLayout):
            nearby = layout.within(config.window)
            return Tokens(layout, everywhere, None), Tokens(nearby, near, None)
        windows = None
        if layout.max_length > config.window + 1:
            windows = Windows(layout, len(inputs.input_ids), config.window)
        return Tokens(layout, everywhere, None), Tokens(layout, near, windows)

    def mlm_projection(self, hidden: Tensor) -> MlmProjection:
        return MlmProjection(self.head(hidden), self.word_embedding, self.mlm_head.bias)

    @property
    def word_embedding(self) -> Tensor:
        return self.embeddings.tok_embeddings.weight

    @property
    def mlm_bias(self) -> nn.Parameter:
        return self.mlm_head.bias

    def pool(self, vectors: Tensor) -> Tensor:
        pooled: Tensor = self.head(vectors)
        return pooled

    def before_token_classifier(self, hidden: Tensor) -> Tensor:
        return self.pool(hidden)

    def class_logits(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.classifier(pooled)
        return logits


def _norm(config: ModernBertConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
