"""Classification and regression of sequences (Devlin et al. 2018, 4.1): fine-tuning.

Legend: B = sequences; H = hidden size; K = outputs of the classifier.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.architectures import CLASSIFIER, Encoder
from bertsmith.batch import Batch
from bertsmith.hardware.device import whole_on_cpu
from bertsmith.nn.dropout import dropout
from bertsmith.objectives.base import Objective, Scores, Term
from bertsmith.objectives.rows import sequence_vectors, token_dropout_key


class SequenceClassification(Objective):
    """Cross entropy of classes, or the squared error of a score; a mean over sequences.

    Its batches have a label for each sequence, int64 or of scores float32.

    Args:
        is_regression: whether labels are scores.
        class_weights: float32 [K]; the loss of each sequence is multiplied by that of its class,
            and the mean is over sequences, not over weights (as `torch` has it), so that a sequence
            weighs the same in every batch. None: all weigh 1.
    """

    name = "classification"
    terms = (Term(name="label", title="Classification", count=lambda sizes: sizes.num_sequences),)
    heads = frozenset({CLASSIFIER})

    def __init__(self, *, is_regression: bool = False, class_weights: Tensor | None = None) -> None:
        self.is_regression = is_regression
        self._class_weights = class_weights

    def losses(
        self, model: Encoder, batch: Batch, dropout_key: int | None = None
    ) -> tuple[Tensor, ...]:
        outputs = self.outputs(model, batch, dropout_key)
        return (self._loss_of(outputs, batch.sequence_labels, "sum"),)

    @torch.no_grad()
    def score(self, model: Encoder, batch: Batch) -> dict[str, Scores]:
        outputs, labels = self.outputs(model, batch), batch.sequence_labels
        correct = None if self.is_regression else outputs.argmax(1) == labels
        return {"label": Scores(self._loss_of(outputs, labels, "none"), correct)}

    def outputs(self, model: Encoder, batch: Batch, dropout_key: int | None = None) -> Tensor:
        """Of each sequence, in at least float32: [B, K].

        Args:
            model: with a classifier.
            batch: on its device; labels in it are not looked at.
            dropout_key: random bits of the step; None: no dropout.
        """
        key = token_dropout_key(model, batch, dropout_key)
        if key is not None:
            key = key.of(batch.cu_seqlens[:-1].long())
        vectors = sequence_vectors(model, batch, dropout_key, of_all=model.pools_all)
        with whole_on_cpu(vectors.device):
            pooled = model.pool(vectors)
            pooled = dropout(pooled, model.config.classifier_dropout_prob, key, model.dropout_sites)
            outputs = model.class_logits(pooled)
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))

    def _loss_of(self, outputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
        if self.is_regression:
            return F.mse_loss(outputs[:, 0], labels, reduction=reduction)
        return F.cross_entropy(outputs, labels, self._class_weights, reduction=reduction)
