"""A packed batch: sequences end to end, what is to be predicted in them, and parts of it.

Legend: B = sequences; T = tokens of all of them; M = tokens to predict.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor


class Sizes(NamedTuple):
    """How much is in a batch; those of a step's parts, added up, are those of the step."""

    num_sequences: int
    """B."""
    num_pairs: int
    """B, or 0 where sequences have no label, as segments."""
    num_tokens: int
    """T."""
    num_masked: int
    """M."""
    num_squared: int
    """The sum of the squared lengths, which attention's cost goes by."""
    num_cut_pairs: int
    """Pairs that were longer than the length allows."""
    num_cut_tokens: int
    """Tokens that were cut off them."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences end to end, longest first; there is no padding."""

    input_ids: Tensor
    """int64 [T]."""
    token_type_ids: Tensor
    """int64 [T]; 0 = [CLS] A [SEP], 1 = B [SEP]; of segments all 0."""
    position_ids: Tensor
    """int64 [T]; from 0 in each sequence."""
    cu_seqlens: Tensor
    """int32 [B + 1]; where each sequence begins, and T."""
    masked_positions: Tensor
    """int64 [M]; places in [0, T) to predict, rising."""
    masked_labels: Tensor
    """int64 [M]; the true tokens there."""
    sequence_labels: Tensor
    """int64 [B], or float32 of scores, or several numbers for each, [B, n]: what the objective says
    of each sequence. Of pairs 0 = B follows A, 1 = B is random (Hugging Face's meaning); [0] where
    sequences have no label."""
    lengths: tuple[int, ...]
    """B lengths in tokens, falling; on the host, so that no step waits for the device."""
    num_masked_each: tuple[int, ...]
    """B counts of tokens to predict; on the host, as the lengths."""
    num_cut_pairs: int = 0
    """Pairs that were longer than the length allows."""
    num_cut_tokens: int = 0
    """Tokens that were cut off them."""
    starts: tuple[int, ...] = ()
    """B places of the first tokens in the global batch, of which this may be a part; training
    alone asks for them."""

    @property
    def num_sequences(self) -> int:
        """B."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.input_ids)

    @property
    def num_masked(self) -> int:
        """M."""
        return len(self.masked_positions)

    @property
    def num_pairs(self) -> int:
        """B, or 0 where sequences have no label, as segments."""
        return len(self.sequence_labels)

    @property
    def num_squared(self) -> int:
        """The sum of the squared lengths, which attention's cost goes by."""
        return sum(length * length for length in self.lengths)

    @property
    def sizes(self) -> Sizes:
        """How much is in it."""
        return Sizes(*(getattr(self, name) for name in Sizes._fields))

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`."""
        # Elsewhere a copy that is still under way could read memory that was given back.
        non_blocking = device.type == "cuda"
        changed: dict[str, Any] = {
            field.name: value.to(device, non_blocking=non_blocking)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **changed)

    def split(self, most_tokens: int) -> list[Batch]:
        """Micro-batches of at most so many tokens, or one sequence; views, neighbours in length."""
        ends = np.cumsum(self.lengths)
        parts, first = [], 0
        while first < self.num_sequences:
            before = ends[first] - self.lengths[first]
            last = int(np.searchsorted(ends, before + most_tokens, side="right"))
            last = max(last, first + 1)
            parts.append(self._part(first, last))
            first = last
        return parts

    def _part(self, first: int, last: int) -> Batch:
        """Some sequences as views."""
        start, end = (int(self.cu_seqlens[place]) for place in (first, last))
        begin, stop = (sum(self.num_masked_each[:place]) for place in (first, last))
        return Batch(
            input_ids=self.input_ids[start:end],
            token_type_ids=self.token_type_ids[start:end],
            position_ids=self.position_ids[start:end],
            cu_seqlens=self.cu_seqlens[first : last + 1] - start,
            masked_positions=self.masked_positions[begin:stop] - start,
            masked_labels=self.masked_labels[begin:stop],
            sequence_labels=self.sequence_labels[first:last],
            lengths=self.lengths[first:last],
            num_masked_each=self.num_masked_each[first:last],
            starts=self.starts[first:last],
        )


class BatchSource(Protocol):
    """The batches of a training, as a function of their number."""

    @property
    def num_examples(self) -> int:
        """Of an epoch, over all ranks."""
        ...

    def batch(self, number: int) -> Batch:
        """The batch of a number, from 0; of several ranks the part of this one."""
        ...
