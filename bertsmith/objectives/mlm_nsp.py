"""Masked language modelling and next sentence prediction on pairs (Devlin et al. 2018, 3.1)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.architectures import MLM_HEAD, NSP_HEAD, POOLER, Encoder
from bertsmith.hardware.device import whole_on_cpu
from bertsmith.objectives.base import Scores, Term
from bertsmith.objectives.mlm import MLM, mlm_loss, mlm_scores
from bertsmith.objectives.rows import LastRows, RowObjective

NSP = Term(
    name="nsp",
    title="Next sentence prediction",
    count=lambda sizes: sizes.num_pairs,
    chance_loss=math.log(2),
)
"""Cross entropy of whether B follows A in the text (0) or is random (1); a mean over pairs."""


class MaskedLMAndNextSentence(RowObjective):
    """The sum of both."""

    name = "mlm+nsp"
    terms = (MLM, NSP)
    heads = frozenset({MLM_HEAD, POOLER, NSP_HEAD})

    def row_losses(self, model: Encoder, rows: LastRows) -> tuple[Tensor, ...]:
        mlm = mlm_loss(model, rows)
        labels = rows.sequence_labels.long()
        return mlm, F.cross_entropy(_nsp_logits(model, rows), labels, reduction="sum")

    def row_scores(self, model: Encoder, rows: LastRows) -> dict[str, Scores]:
        mlm, labels = mlm_scores(model, rows), rows.sequence_labels
        logits = _nsp_logits(model, rows)
        losses = F.cross_entropy(logits, labels, reduction="none").float()
        return {MLM.name: mlm, NSP.name: Scores(losses, logits.argmax(1) == labels, labels)}


def _nsp_logits(model: Encoder, rows: LastRows) -> Tensor:
    """[B, 2], in at least float32."""
    first = rows.first()
    with whole_on_cpu(first.device):
        logits: Tensor = model.nsp_logits(model.pool(first))
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
