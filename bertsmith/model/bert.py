"""The original BERT (Devlin et al. 2018) on sequences laid end to end, in one file.

Post-norm encoder, pooler on [CLS], MLM head with the decoder tied to the word embeddings, NSP head.
Linear layers see real tokens only, and the MLM head masked positions only; sequences meet the
padded grid of `Layout` inside attention and nowhere else.

Legend: B = sequences; T = tokens of all of them; L = longest sequence; M = masked tokens;
H = hidden size; N = heads; D = H / N; V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.config import ModelConfig
from bertsmith.data.batches import Batch
from bertsmith.model.attention import attend
from bertsmith.model.dropout import Noise, dropout
from bertsmith.model.layout import Layout
from bertsmith.model.loss import count_correct, masked_lm_loss

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class Losses(NamedTuple):
    """Sums over a (micro-)batch; the loss of a step is these divided by the step's counts."""

    mlm: Tensor
    """float32 []; sum over masked tokens of the cross entropy, in nats."""
    nsp: Tensor
    """float32 []; sum over pairs of the cross entropy, in nats."""


class Correct(NamedTuple):
    """Right answers of a batch."""

    mlm: Tensor
    """int64 []; masked tokens whose first guess is true."""
    nsp: Tensor
    """int64 []; pairs judged rightly."""


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
        self, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor, noise: Noise | None
    ) -> Tensor:
        """int64 [T] each → [T, H]."""
        total = self.word(input_ids) + self.position(position_ids) + self.token_type(token_type_ids)
        return dropout(self.norm(total), self.dropout_prob, noise, place=0)


class Attention(nn.Module):
    """Multi-head self-attention within each sequence; query, key and value in one product."""

    def __init__(self, config: ModelConfig, place: int) -> None:
        super().__init__()
        self.place = place
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        """[T, H] → [T, H]."""
        context = attend(
            self.qkv(hidden), layout, self.num_heads, self.dropout_prob, place=self.place
        )
        mixed: Tensor = self.output(context)
        return mixed


class Layer(nn.Module):
    """Attention and feed-forward network, each with a residual and a norm after it.

    Args:
        config: the network's shape.
        number: of the layer, from 0.
    """

    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        # Places of dropout: 0 is the embeddings'; a layer has two, and one for each head.
        self.place = 1 + number * (2 + config.num_attention_heads)
        self.attention = Attention(config, self.place + 2)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_prob = config.hidden_dropout_prob
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        """[T, H] → [T, H]."""
        mixed = self.attention(hidden, layout)
        mixed = dropout(mixed, self.dropout_prob, layout.noise, self.place)
        hidden = self.attention_norm(hidden + mixed)
        change = self.output(self.activation(self.intermediate(hidden)))
        change = dropout(change, self.dropout_prob, layout.noise, self.place + 1)
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
    """BERT with its two pretraining heads.

    Args:
        config: the network's shape.
        vocab_size: rows of the embedding matrix.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.embeddings = Embeddings(config, vocab_size)
        self.layers = nn.ModuleList(Layer(config, n) for n in range(config.num_hidden_layers))
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.mlm_head = MaskedLanguageModelHead(config, vocab_size)
        self.nsp_head = nn.Linear(config.hidden_size, 2)

    def initialize(self, seed: int) -> None:
        """Draw the weights: normal of `initializer_range`; biases 0, norms 1 (as the original)."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                # Drawn on the host: the same weights whatever the device.
                weight = torch.empty(module.weight.shape)
                weight.normal_(0.0, self.config.initializer_range, generator=generator)
                module.weight.data.copy_(weight)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        nn.init.zeros_(self.mlm_head.bias)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor, layout: Layout
    ) -> Tensor:
        """The encoder.

        Args:
            input_ids, token_type_ids, position_ids: int64 [T], sequences end to end.
            layout: where each sequence lies; with `noise` set, dropout is on.

        Returns:
            [T, H]; the vector of each token in its context.
        """
        hidden: Tensor = self.embeddings(input_ids, token_type_ids, position_ids, layout.noise)
        for layer in self.layers:
            hidden = layer(hidden, layout)
        return hidden

    def pool(self, hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Tanh of a dense layer on each sequence's [CLS] vector: [T, H] → [B, H]."""
        return torch.tanh(self.pooler(hidden.index_select(0, cu_seqlens[:-1].long())))

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
        noise = None
        if dropout_key is not None:
            noise = Noise(dropout_key, batch.first_token, batch.first_sequence)
        return self._heads(batch, noise)[0]

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> tuple[Losses, Correct]:
        """Both losses of a batch, as sums, and the right answers."""
        losses, masked, nsp_logits = self._heads(batch, None)
        word = self.embeddings.word.weight
        return losses, Correct(
            count_correct(masked, word, self.mlm_head.bias, batch.masked_labels),
            (nsp_logits.argmax(1) == batch.next_sentence_labels).sum(),
        )

    def _heads(self, batch: Batch, noise: Noise | None) -> tuple[Losses, Tensor, Tensor]:
        """Losses, MLM head's output [M, H], NSP logits [B, 2]."""
        layout = Layout(batch.lengths, batch.cu_seqlens, noise)
        hidden = self(batch.input_ids, batch.token_type_ids, batch.position_ids, layout)
        masked = self.mlm_head(hidden.index_select(0, batch.masked_positions))
        mlm = masked_lm_loss(
            masked, self.embeddings.word.weight, self.mlm_head.bias, batch.masked_labels
        )
        logits = self.nsp_logits(self.pool(hidden, batch.cu_seqlens))
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nsp = F.cross_entropy(scores, batch.next_sentence_labels, reduction="sum")
        return Losses(mlm, nsp), masked, logits
