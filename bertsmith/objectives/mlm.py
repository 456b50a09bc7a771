"""Masked language modelling (Devlin et al. 2018, 3.1, task 1) on single segments."""

from __future__ import annotations

from torch import Tensor

from bertsmith.architectures import MLM_HEAD, Encoder
from bertsmith.nn.loss import masked_lm_loss, score_labels, whole_masked_lm_loss
from bertsmith.objectives.base import Scores, Term
from bertsmith.objectives.rows import LastRows, RowObjective

MLM = Term(
    name="mlm",
    title="Masked language modelling",
    count=lambda sizes: sizes.num_masked,
    predicts_masked_tokens=True,
)
"""Cross entropy of the true tokens at masked positions; a mean over them."""


class MaskedLM(RowObjective):
    """The MLM loss alone."""

    name = "mlm"
    terms = (MLM,)
    heads = frozenset({MLM_HEAD})

    def row_losses(self, model: Encoder, rows: LastRows) -> tuple[Tensor, ...]:
        return (mlm_loss(model, rows),)

    def row_scores(self, model: Encoder, rows: LastRows) -> dict[str, Scores]:
        return {MLM.name: mlm_scores(model, rows)}


def mlm_loss(model: Encoder, rows: LastRows) -> Tensor:
    """Sum over masked tokens: float32 []."""
    loss = whole_masked_lm_loss if rows.has_filler else masked_lm_loss
    return loss(*model.mlm_projection(rows.masked()), rows.masked_labels)


def mlm_scores(model: Encoder, rows: LastRows) -> Scores:
    """Of each masked token."""
    labels = rows.masked_labels
    found = score_labels(*model.mlm_projection(rows.masked()), labels)
    return Scores(*(each[labels >= 0] for each in found))
