"""The objective of most tests: its losses and scores as a function of network and batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from bertsmith.architectures import Encoder, architecture_of
from bertsmith.batch import Batch
from bertsmith.objectives import Scores
from bertsmith.objectives.mlm import MaskedLM
from bertsmith.objectives.mlm_nsp import MaskedLMAndNextSentence
from bertsmith.objectives.rows import RowObjective

BERT = architecture_of("bert")
OBJECTIVE = MaskedLMAndNextSentence()
_plain = RowObjective.losses


class Losses(NamedTuple):
    """Of its two terms."""

    mlm: Tensor
    nsp: Tensor


def losses_of(model: Encoder, batch: Batch, key: int | None = None) -> Losses:
    """As they are, also where a test has put others in their place; NSP 0 without pairs."""
    if batch.num_pairs:
        return Losses(*_plain(OBJECTIVE, model, batch, key))
    (mlm,) = _plain(MaskedLM(), model, batch, key)
    return Losses(mlm, mlm.new_zeros(()))


def scores_of(model: Encoder, batch: Batch) -> dict[str, Scores]:
    """Of masked tokens and pairs."""
    return OBJECTIVE.score(model, batch)
