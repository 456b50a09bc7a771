"""Objectives that read some rows of the last layer: [CLS] of each sequence and the masked tokens.

In training the last layer makes these rows alone, about one in six. Such an objective can be
compiled (`training/compiled.py`): its losses are a function of tensors.

Legend: B = sequences; T = tokens of all of them; M = masked tokens; R = B + M; H = hidden size.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.architectures import Encoder
from bertsmith.batch import Batch
from bertsmith.hardware.device import rows_with_filler, to_device
from bertsmith.nn.dropout import DropoutKey
from bertsmith.nn.layout import Gather, Layout, PackedInput, TokenSubset, filled
from bertsmith.objectives.base import Objective, Scores


class LastRows(NamedTuple):
    """The last layer's vectors that are read, and what is to be predicted from them."""

    hidden: Tensor
    """float [R, H]; sequence by sequence [CLS], and then the masked tokens."""
    masked_rows: Tensor
    """int64 [M]; which rows are masked tokens."""
    masked_labels: Tensor
    """int64 [M]; the true tokens there; -100: filler."""
    first_rows: Tensor
    """int64 [B]; which rows are [CLS]."""
    sequence_labels: Tensor
    """int64 [B], or float32 of scores; [0] where sequences have no label; -100: filler."""
    masked_inverse: Tensor | None = None
    """int64 [R]; the index of each row among the masked tokens, -1 if it is not; None: not known,
    and nothing is filler."""
    first_inverse: Tensor | None = None
    """int64 [R]; the same among the [CLS] rows."""

    @property
    def has_filler(self) -> bool:
        """Whether it is a micro-batch of a fixed shape, whose filler has no labels."""
        return self.masked_inverse is not None

    def masked(self) -> Tensor:
        """[M, H]."""
        return _select(self.hidden, self.masked_rows, self.masked_inverse)

    def first(self) -> Tensor:
        """[B, H]."""
        return _select(self.hidden, self.first_rows, self.first_inverse)


class RowObjective(Objective):
    """Losses of the rows of `LastRows`."""

    @abstractmethod
    def row_losses(self, model: Encoder, rows: LastRows) -> tuple[Tensor, ...]:
        """The sum of each term, float32 []; by tensor operations alone, without asking values."""

    @abstractmethod
    def row_scores(self, model: Encoder, rows: LastRows) -> dict[str, Scores]:
        """How what each term scores fares, by the term's name."""

    def losses(
        self, model: Encoder, batch: Batch, dropout_key: int | None = None
    ) -> tuple[Tensor, ...]:
        return self.row_losses(model, last_rows(model, batch, dropout_key))

    @torch.no_grad()
    def score(self, model: Encoder, batch: Batch) -> dict[str, Scores]:
        return self.row_scores(model, last_rows(model, batch))


def last_rows(model: Encoder, batch: Batch, dropout_key: int | None = None) -> LastRows:
    """The network's output on a batch."""
    inputs = _inputs(model, batch, dropout_key)
    subset, masked_rows = _rows_to_read(batch, len(inputs.input_ids))
    # Not by a call of the module: one that is spread over ranks would give its weights back
    # after it, before the heads have had them.
    hidden = model.forward(inputs, subset)
    first_rows = subset.layout.cu_seqlens[:-1].long()
    masked_labels = filled(batch.masked_labels, len(masked_rows), filler=-100)
    return LastRows(hidden, masked_rows, masked_labels, first_rows, batch.sequence_labels)


def sequence_vectors(
    model: Encoder, batch: Batch, dropout_key: int | None = None, *, of_all: bool
) -> Tensor:
    """The mean over each sequence's tokens if `of_all`, else the vector of [CLS]: float [B, H]."""
    if not of_all:
        return last_rows(model, batch, dropout_key).first()
    hidden = model.forward(_inputs(model, batch, dropout_key))[: batch.num_tokens]
    return torch.segment_reduce(hidden, "mean", offsets=batch.cu_seqlens.long())


def _inputs(model: Encoder, batch: Batch, dropout_key: int | None) -> PackedInput:
    key = token_dropout_key(model, batch, dropout_key)
    layout = Layout(batch.lengths, batch.cu_seqlens)
    ids, types, positions = batch.input_ids, batch.token_type_ids, batch.position_ids
    return PackedInput(ids, types, positions, layout, key).with_filler()


def _select(hidden: Tensor, rows: Tensor, inverse: Tensor | None) -> Tensor:
    if inverse is None:
        return hidden.index_select(0, rows)
    selected: Tensor = Gather.apply(hidden, rows, inverse)
    return selected


def token_dropout_key(model: Encoder, batch: Batch, dropout_key: int | None) -> DropoutKey | None:
    """The keys of a batch's tokens, by their places in the global batch; None: nothing drops."""
    if dropout_key is None or not model.config.drops:
        return None
    starts = torch.tensor(batch.starts).repeat_interleave(torch.tensor(batch.lengths))
    positions = to_device(starts, batch.position_ids.device) + batch.position_ids
    return DropoutKey(dropout_key, positions)


def _rows_to_read(batch: Batch, num_rows: int) -> tuple[TokenSubset, Tensor]:
    """Each sequence's [CLS] and masked tokens; and which of them are the masked ones: int64 [M].

    Where both have filler, it is the last of `num_rows` rows, and the last of those chosen: no
    gradient comes to them.
    """
    first = batch.cu_seqlens[:-1].long()
    positions, order = torch.cat([first, batch.masked_positions]).sort()
    rows = torch.empty_like(order)
    rows[order] = torch.arange(len(order), device=order.device)
    cls, masked = rows.split((len(first), batch.num_masked))
    cu_seqlens = F.pad(cls, (0, 1), value=len(rows)).int()
    counts = tuple(1 + number for number in batch.num_masked_each)
    num_chosen, num_masked = (rows_with_filler(len(some), first.device) for some in (rows, masked))
    positions = filled(positions, num_chosen, filler=num_rows - 1)
    masked = filled(masked, num_masked, filler=num_chosen - 1)
    return TokenSubset(positions, Layout(counts, cu_seqlens)), masked
