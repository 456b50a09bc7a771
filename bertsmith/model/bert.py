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
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bertsmith.batch import Batch
from bertsmith.config import ModelConfig
from bertsmith.model.attention import attend
from bertsmith.model.device import to_device
from bertsmith.model.dropout import DropoutKey, dropout
from bertsmith.model.embedding import embed
from bertsmith.model.layout import Layout, PackedInput, TokenSubset
from bertsmith.model.loss import masked_lm_loss, score_labels, whole_masked_lm_loss
from bertsmith.model.near import queries_and_keys, waves
from bertsmith.model.shards import put

_MATRICES_OF_A_LAYER = {
    "attention.qkv": 3,
    "attention.output": 1,
    "intermediate": 1,
    "output": 1,
}

_SITES_OF_HIDDEN = 2
"""Dropout sites of a layer beside those of its heads."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class Losses(NamedTuple):
    """Sums over a (micro-)batch; the loss of a step is these divided by the step's counts."""

    mlm: Tensor
    """float32 []; sum over masked tokens of the cross entropy, in nats."""
    nsp: Tensor
    """float32 []; sum over pairs of the cross entropy, in nats; 0 without pairs."""


class PredictionScores(NamedTuple):
    """How each masked token and each pair of a batch fared."""

    mlm_losses: Tensor
    """float32 [M]; cross entropy, in nats."""
    mlm_correct: Tensor
    """bool [M]; whether the first guess is true."""
    nsp_losses: Tensor
    """float32 [B]; cross entropy, in nats; [0] of segments."""
    nsp_correct: Tensor
    """bool [B]; whether the pair is judged rightly; [0] of segments."""


def call_module(module: nn.Module, *arguments: Any) -> Tensor:
    """`module(*arguments)`."""
    output: Tensor = module(*arguments)
    return output


class Embeddings(nn.Module):
    """Word + position + segment, normalised."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
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

    def __init__(self, config: ModelConfig) -> None:
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
        """Attention of `query_hidden` [R, H] to the tokens of `hidden` [T, H]: [R, H]."""
        size = query_hidden.shape[1]
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

    def __init__(self, config: ModelConfig) -> None:
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

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        """[M, H] → [M, H]; what the embedding matrix is multiplied with."""
        transformed: Tensor = self.norm(self.activation(self.transform(hidden)))
        return transformed


class Bert(nn.Module):
    """BERT with its two pretraining heads, or with the MLM head alone.

    Args:
        config: the network's shape.
        vocab_size: rows of the embedding matrix.
        judges_pairs: whether it has the pooler and the NSP head.

    Attributes:
        recomputes: whether a layer keeps for the backward pass nothing but what goes in, and does
            its forward pass again then: a third more work, and a small part of the memory.
    """

    recomputes = False

    def __init__(self, config: ModelConfig, vocab_size: int, *, judges_pairs: bool = True) -> None:
        super().__init__()
        self.judges_pairs = judges_pairs
        self.config = config
        self.vocab_size = vocab_size
        self.embeddings = Embeddings(config, vocab_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        if judges_pairs:
            self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.mlm_head = MaskedLanguageModelHead(config, vocab_size)
        if judges_pairs:
            self.nsp_head = nn.Linear(config.hidden_size, 2)

    def hidden_matrices(self) -> dict[str, int]:
        """Names of the weights that map hidden states to hidden states in a layer.

        Each with the number of matrices that are stacked in it along its rows: query, key and
        value are 3 in one.
        """
        return {
            f"layers.{number}.{name}.weight": count
            for number in range(len(self.layers))
            for name, count in _MATRICES_OF_A_LAYER.items()
        }

    @property
    def dropout_sites(self) -> int:
        """How many dropouts there are: the embeddings', and those of each layer."""
        return 1 + len(self.layers) * self._sites_of_a_layer

    @property
    def _sites_of_a_layer(self) -> int:
        return _SITES_OF_HIDDEN + self.config.num_attention_heads

    def initialize(self, seed: int, *, looks_near: bool = False) -> None:
        """Draw the weights: normal of `initializer_range`; biases 0, norms 1 (as the original).

        Args:
            seed: of what is drawn.
            looks_near: begin with position vectors that are waves, and a first layer half of whose
                heads look at the positions around a token (`model/near.py`).
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
        nn.init.zeros_(self.mlm_head.bias)

    def forward(
        self,
        inputs: PackedInput,
        subset: TokenSubset | None = None,
        call: Callable[..., Tensor] = call_module,
    ) -> Tensor:
        """The encoder.

        Args:
            inputs: T tokens.
            subset: the tokens whose vectors are wanted; None: all.
            call: how the embeddings and each layer are called: `call(module, *arguments)`. Compiled
                once, it serves all layers, since they differ in nothing but their tensors.

        Returns:
            [R, H]; the vector of each of these tokens in its context.
        """
        key, count = inputs.dropout_key, self._sites_of_a_layer
        hidden = call(self.embeddings, *inputs[:3], key.at_sites(0, 1) if key else None)
        for number, layer in enumerate(self.layers):
            own_key = key.at_sites(1 + number * count, count) if key else None
            chosen = subset if number == len(self.layers) - 1 else None
            if self.recomputes and torch.is_grad_enabled():
                # Dropout follows from counters: there is no generator's state to put back.
                hidden = checkpoint(
                    *(layer, hidden, inputs.layout, own_key, chosen),
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            else:
                hidden = call(layer, hidden, inputs.layout, own_key, chosen)
        return hidden

    def pool(self, hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Tanh of a dense layer on each sequence's [CLS] vector: [T, H] → [B, H]."""
        return self.pool_cls(hidden.index_select(0, cu_seqlens[:-1].long()))

    def pool_cls(self, cls_hidden: Tensor) -> Tensor:
        """The same of [CLS] vectors: [B, H] → [B, H]."""
        return torch.tanh(self.pooler(cls_hidden))

    def whole_mlm_loss(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """MLM loss of the rows given, from all logits at once; see `whole_masked_lm_loss`.

        Args:
            hidden: float [M, H]; of the encoder.
            labels: int [M]; -100: the row is not scored.
        """
        transformed = self.mlm_head(hidden)
        return whole_masked_lm_loss(
            transformed, self.embeddings.word.weight, self.mlm_head.bias, labels
        )

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Scores of every vocabulary entry at the rows given: [M, H] → [M, V]."""
        return F.linear(self.mlm_head(hidden), self.embeddings.word.weight, self.mlm_head.bias)

    def nsp_logits(self, pooled: Tensor) -> Tensor:
        """[B, H] → [B, 2]; 0 = B follows A, 1 = B is random."""
        logits: Tensor = self.nsp_head(pooled)
        return logits

    def losses(self, batch: Batch, dropout_key: int | None = None) -> Losses:
        """Both losses of a batch, as sums, with gradients.

        Args:
            batch: a batch or a micro-batch.
            dropout_key: random bits of the step, for the dropout; None: no dropout.
        """
        config, key = self.config, None
        if dropout_key is not None and (
            config.hidden_dropout_prob or config.attention_probs_dropout_prob
        ):
            key = DropoutKey(dropout_key, _token_positions(batch))
        masked, nsp_logits = self._heads(batch, key)
        mlm = masked_lm_loss(
            masked, self.embeddings.word.weight, self.mlm_head.bias, batch.masked_labels
        )
        if nsp_logits is None:
            return Losses(mlm, mlm.new_zeros(()))
        nsp = F.cross_entropy(nsp_logits, batch.next_sentence_labels, reduction="sum")
        return Losses(mlm, nsp)

    @torch.no_grad()
    def score(self, batch: Batch) -> PredictionScores:
        """How each masked token and each pair fares, without dropout."""
        masked, nsp_logits = self._heads(batch, None)
        mlm = score_labels(
            masked, self.embeddings.word.weight, self.mlm_head.bias, batch.masked_labels
        )
        labels = batch.next_sentence_labels
        if nsp_logits is None:
            return PredictionScores(*mlm, mlm[0].new_zeros(0), mlm[1].new_zeros(0))
        nsp = F.cross_entropy(nsp_logits, labels, reduction="none").float()
        return PredictionScores(*mlm, nsp, nsp_logits.argmax(1) == labels)

    def _heads(self, batch: Batch, dropout_key: DropoutKey | None) -> tuple[Tensor, Tensor | None]:
        """MLM head's output [M, H]; NSP logits of pairs, [B, 2], in at least float32."""
        layout = Layout(batch.lengths, batch.cu_seqlens)
        subset, masked_rows = _select_prediction_rows(batch)
        # Not by a call of the module: one that is spread over ranks would give its weights back
        # after it, before the heads have had them.
        inputs = PackedInput(
            batch.input_ids, batch.token_type_ids, batch.position_ids, layout, dropout_key
        )
        hidden = self.forward(inputs, subset)
        masked = self.mlm_head(hidden.index_select(0, masked_rows))
        if not batch.num_pairs:
            return masked, None
        logits = self.nsp_logits(self.pool(hidden, subset.layout.cu_seqlens))
        return masked, logits.to(torch.promote_types(logits.dtype, torch.float32))


def _token_positions(batch: Batch) -> Tensor:
    """Of each token in the global batch: int64 [T]."""
    starts = torch.tensor(batch.starts).repeat_interleave(torch.tensor(batch.lengths))
    return to_device(starts, batch.position_ids.device) + batch.position_ids


def _select_prediction_rows(batch: Batch) -> tuple[TokenSubset, Tensor]:
    """Each sequence's [CLS] and masked tokens; and which of them are the masked ones: int64 [M]."""
    first = batch.cu_seqlens[:-1].long()
    positions, order = torch.cat([first, batch.masked_positions]).sort()
    rows = torch.empty_like(order)
    rows[order] = torch.arange(len(order), device=order.device)
    cls, masked = rows.split((len(first), batch.num_masked))
    cu_seqlens = F.pad(cls, (0, 1), value=len(rows)).int()
    counts = tuple(1 + number for number in batch.num_masked_each)
    return TokenSubset(positions, Layout(counts, cu_seqlens)), masked
