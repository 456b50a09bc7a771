"""A classifier or regressor on BERT (Devlin et al. 2018, 4.1), and its form on disk.

Legend: B = texts or pairs; H = hidden size; K = outputs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bertsmith.architectures import POOLER, Encoder, architecture_of, build
from bertsmith.finetuning.labels import Task
from bertsmith.nn.dropout import DropoutKey, dropout
from bertsmith.nn.layout import Layout, PackedInput, TokenSubset
from bertsmith.saved.hugging_face import Snapshot
from bertsmith.tokenizer import Tokenizer


class SequenceClassifier(nn.Module):
    """BERT with its pooler, dropout, and a linear layer.

    Args:
        bert: with a pooler; its pretraining heads are not used.
        num_outputs: K.
    """

    def __init__(self, bert: Encoder, num_outputs: int) -> None:
        super().__init__()
        self.bert = bert
        self.classifier = nn.Linear(bert.config.hidden_size, num_outputs)
        self._site = bert.dropout_sites  # of its own dropout
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
    architecture = architecture_of(model.bert.config.architecture)
    unused = tuple(prefix for head, prefix in architecture.heads.items() if head != POOLER)
    names = list(task.classes) or ["LABEL_0"]
    config: dict[str, Any] = {
        **base.config,
        "architectures": [architecture.classifier_class],
        "problem_type": "regression" if task.is_regression else "single_label_classification",
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
    weights = {name: value for name, value in base.weights.items() if not name.startswith(unused)}
    for name, value in model.classifier.state_dict().items():
        weights[f"classifier.{name}"] = value.detach().cpu().clone()
    return Snapshot(config=config, weights=weights, tokenizer=tokenizer)


def with_dropout(bert: Encoder, dropout_prob: float) -> Encoder:
    """A copy of `bert`, with a pooler, and with this dropout where the original BERT has any."""
    config = replace(
        bert.config, hidden_dropout_prob=dropout_prob, attention_probs_dropout_prob=dropout_prob
    )
    copy = build(config, bert.vocab_size)
    copy.load_state_dict(bert.state_dict(), strict=False)
    return copy
