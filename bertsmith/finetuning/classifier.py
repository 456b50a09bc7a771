"""A classifier or regressor on BERT (Devlin et al. 2018, 4.1), and its form on disk.

Legend: B = texts or pairs; H = hidden size; K = outputs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bertsmith.finetuning.labels import Task
from bertsmith.model.bert import Bert
from bertsmith.model.dropout import DropoutKey, dropout
from bertsmith.model.hugging_face import Snapshot
from bertsmith.model.layout import Layout, PackedInput, TokenSubset
from bertsmith.tokenizer import Tokenizer

_PARTS = ("bert.embeddings.", "bert.encoder.", "bert.pooler.")
"""Of the saved pretraining model, what `BertForSequenceClassification` has, too."""


class SequenceClassifier(nn.Module):
    """BERT with its pooler, dropout, and a linear layer.

    Args:
        bert: with a pooler; its pretraining heads are not used.
        num_outputs: K.
    """

    def __init__(self, bert: Bert, num_outputs: int) -> None:
        super().__init__()
        self.bert = bert
        self.classifier = nn.Linear(bert.config.hidden_size, num_outputs)
        layers, heads = bert.config.num_hidden_layers, bert.config.num_attention_heads
        self._site = 1 + layers * (2 + heads)  # of its dropout, behind those of the layers
        self._dropout_prob = bert.config.hidden_dropout_prob

    def initialize_head(self, seed: int) -> None:
        """Draw the linear layer's weights, as BERT's own: normal of `initializer_range`; bias 0."""
        generator = torch.Generator().manual_seed(seed)
        weight = torch.empty(self.classifier.weight.shape)
        weight.normal_(0.0, self.bert.config.initializer_range, generator=generator)
        self.classifier.weight.data.copy_(weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, rows: PackedInput, dropout_key: int | None = None) -> Tensor:
        """Outputs of texts, in at least float32: [B, K].

        Args:
            rows: B texts or pairs.
            dropout_key: random bits of the step, for the dropout; None: no dropout.
        """
        device = rows.input_ids.device
        key = None
        if dropout_key is not None:
            key = DropoutKey(dropout_key, torch.arange(len(rows.input_ids), device=device))
        first = rows.layout.cu_seqlens[:-1].long()
        of_first = None if key is None else key.of(first)
        subset = TokenSubset(first, Layout.of((1,) * len(first), device))
        hidden = self.bert(rows._replace(dropout_key=key), subset)  # [B, H]
        pooled = self.bert.pool(hidden, subset.layout.cu_seqlens)
        outputs = self.classifier(dropout(pooled, self._dropout_prob, of_first, self._site))
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def snapshot(model: SequenceClassifier, tokenizer: Tokenizer, task: Task) -> Snapshot:
    """A copy of the model as `BertForSequenceClassification` is saved, with the class names."""
    base = Snapshot.of(model.bert, tokenizer)
    names = list(task.classes) or ["LABEL_0"]
    config: dict[str, Any] = {
        **base.config,
        "architectures": ["BertForSequenceClassification"],
        "problem_type": "regression" if task.is_regression else "single_label_classification",
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
    weights = {name: value for name, value in base.weights.items() if name.startswith(_PARTS)}
    for name, value in model.classifier.state_dict().items():
        weights[f"classifier.{name}"] = value.detach().cpu().clone()
    return Snapshot(config=config, weights=weights, tokenizer=tokenizer)


def with_dropout(bert: Bert, dropout_prob: float) -> Bert:
    """A copy of `bert`, with a pooler, and with this dropout where the original BERT has any."""
    config = replace(
        bert.config, hidden_dropout_prob=dropout_prob, attention_probs_dropout_prob=dropout_prob
    )
    copy = Bert(config, bert.vocab_size)
    copy.load_state_dict(bert.state_dict(), strict=False)
    return copy
