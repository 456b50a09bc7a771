"""Classification of tokens (Devlin et al. 2018, 5.3): fine-tuning.

Legend: M = tokens with a tag; H = hidden size; K = classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.architectures import TOKEN_CLASSIFIER, Encoder
from bertsmith.batch import Batch
from bertsmith.hardware.device import whole_on_cpu
from bertsmith.nn.dropout import dropout
from bertsmith.objectives.base import Objective, Scores, Term
from bertsmith.objectives.rows import last_rows, token_dropout_key


class TokenClassification(Objective):
    """Cross entropy of each token's class; a mean over the tokens that have one.

    Its batches have the tokens to tag where others have masked tokens, and their classes as labels.
    """

    name = "tokens"
    terms = (Term(name="tag", title="Tags", count=lambda sizes: sizes.num_masked),)
    heads = frozenset({TOKEN_CLASSIFIER})

    def losses(
        self, model: Encoder, batch: Batch, dropout_key: int | None = None
    ) -> tuple[Tensor, ...]:
        logits = self.outputs(model, batch, dropout_key)
        return (F.cross_entropy(logits, batch.masked_labels, reduction="sum"),)

    @torch.no_grad()
    def score(self, model: Encoder, batch: Batch) -> dict[str, Scores]:
        logits, labels = self.outputs(model, batch), batch.masked_labels
        losses = F.cross_entropy(logits, labels, reduction="none")
        return {"tag": Scores(losses, logits.argmax(1) == labels)}

    def outputs(self, model: Encoder, batch: Batch, dropout_key: int | None = None) -> Tensor:
        """Of each token that is to be tagged, in at least float32: [M, K].

        Args:
            model: with a token classifier.
            batch: on its device; labels in it are not looked at.
            dropout_key: random bits of the step; None: no dropout.
        """
        key = token_dropout_key(model, batch, dropout_key)
        key = None if key is None else key.of(batch.masked_positions)
        hidden = last_rows(model, batch, dropout_key).masked()[: batch.num_masked]
        with whole_on_cpu(hidden.device):
            hidden = model.before_token_classifier(hidden)
            hidden = dropout(hidden, model.config.classifier_dropout_prob, key, model.dropout_sites)
            logits = model.token_logits(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))
