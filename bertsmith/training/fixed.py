"""Micro-batches in a shape that a compiled step can be given: one number of it varies.

A compiled step takes tensors whose sizes it knows. Here the sequences of a batch are shared out
over equally large micro-batches of U units of tokens, and all other sizes are constants or
multiples of U. Filler sequences, whose vectors and losses nobody reads, make up what is missing.
All that a micro-batch needs is in one int32 buffer, so that one copy brings it to the device.

Legend: B = sequences; T = tokens of all of them; U = units of tokens; M = tokens to predict;
L = the longest sequence; R = B + M = rows that the heads read: each sequence's [CLS] and its
masked tokens; S = dropout sites.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertsmith.batch import Batch, Sizes
from bertsmith.data.batches import Batches
from bertsmith.data.deal import deal
from bertsmith.nn.dropout import site_keys
from bertsmith.random_bits import Int64

IGNORED = -100
"""The label of what is not scored, as `torch.nn.functional.cross_entropy` has it."""

_MULTIPLE = 128  # of a unit: matrix products run in tiles of so many rows
_UNITS = 200  # in a batch, about: half a unit is filler on average
_LEAST_UNITS = 2  # torch.compile makes another graph for a size of 1
_SPARE = 1.05  # B beside the most that was seen: these rows cost little
_ALIGNMENT = 4  # int32 numbers in 16 bytes


@dataclass(frozen=True, kw_only=True)
class FixedShape:
    """The sizes of all micro-batches of a run, filler included."""

    unit: int
    """Tokens in a unit: T is U times it."""
    masked_in_unit: int
    """M is U times it."""
    most_units: int
    """U is at most this."""
    sequences: int
    """B; at least one of them is filler."""
    max_length: int
    """L."""
    sites: int
    """S; dropout keys of a step."""
    terms: int
    """Of the objective."""
    is_pairs: bool
    """Whether sequences have a next-sentence label."""

    @property
    def constants(self) -> dict[str, int]:
        """The parts of a buffer that are the same in number whatever U, in their order."""
        sizes = {
            "dropout_keys": 2 * self.sites,  # int64
            "denominators": self.terms,  # float32
            "cu_seqlens": self.sequences + 1,
            "row_cu_seqlens": self.sequences + 1,
            "sequence_labels": self.sequences,
        }
        return {**sizes, "unused": -sum(sizes.values()) % _ALIGNMENT}

    def size(self, units: int) -> int:
        """int32 numbers of a buffer of U units."""
        each = 5 * self.unit + 5 * self.masked_in_unit
        size = sum(self.constants.values()) + 3 * self.sequences + units * each
        return size + -size % _ALIGNMENT

    def views(self, buffer: Tensor, units: int) -> Views:
        """The parts of a buffer (int32 [size(U)] or more, on any device)."""
        constants = sum(self.constants.values())
        tokens, masked = 5 * self.unit * units, 2 * self.masked_in_unit * units
        rows = 3 * (self.sequences + self.masked_in_unit * units)
        sizes = (constants, tokens, masked, rows)
        parts = buffer[: sum(sizes)].split(sizes)
        return Views(
            parts[0],
            parts[1].view(5, units, self.unit),
            parts[2].view(2, units, -1),
            parts[3].view(3, -1),
        )

    @staticmethod
    def for_batches(
        batches: Iterable[Batch], *, most_tokens: int, max_length: int, sites: int, terms: int = 2
    ) -> FixedShape:
        """The shape for batches like these.

        Args:
            batches: some of the run, at least one.
            most_tokens: of a micro-batch; one sequence and its filler it takes in any case.
            max_length: L.
            sites: S.
            terms: of the objective.
        """
        batches = list(batches)
        mean = sum(batch.num_tokens for batch in batches) / len(batches)
        unit = mean / math.ceil(mean / most_tokens) / _UNITS
        unit = _MULTIPLE * max(1, round(unit / _MULTIPLE))
        most_units = max(_LEAST_UNITS, most_tokens // unit, math.ceil((max_length + 1) / unit))
        number = math.ceil(mean / (most_units * unit))
        # However few batches were seen, one sequence alone must fit: all its tokens masked, and
        # filler for the rest of the tokens and of the rows.
        masked = max(math.ceil(unit * batch.num_masked / batch.num_tokens) for batch in batches)
        masked = max(masked, math.ceil(max_length / most_units))
        sequences = max(int(np.bincount(deal(batch.lengths, number)).max()) for batch in batches)
        sequences = math.ceil(_SPARE * sequences)
        fillers = math.ceil(unit / max_length) + math.ceil((sequences + masked) / max_length)
        return FixedShape(
            unit=unit,
            masked_in_unit=masked,
            most_units=most_units,
            sequences=sequences + fillers + 2,
            max_length=max_length,
            sites=sites,
            terms=terms,
            is_pairs=batches[0].num_pairs > 0,
        )


class Views(NamedTuple):
    """A buffer by what a compiled step is given."""

    constants: Tensor
    """int32; its size is the same whatever U; by name in `FixedShape.constants`."""
    tokens: Tensor
    """int32 [5, U, unit]; ids, types, positions in the sequence and in the global batch, and the
    index of each token among the rows that are read, −1 if it is not."""
    masked: Tensor
    """int32 [2, U, masked_in_unit]; which of the rows are masked tokens, and their labels."""
    rows: Tensor
    """int32 [3, R]; the tokens whose last vectors are read, sequence by sequence; the index of each
    among the masked tokens, −1 if it is not; and among the [CLS] tokens."""


@dataclass(frozen=True)
class FixedBatch:
    """A batch as micro-batches of one size."""

    shape: FixedShape
    units: int
    """U."""
    buffers: Tensor
    """int32 [N, size], on the host."""
    sizes: Sizes
    """Of what is real in it."""

    def set_step(self, dropout_key: int, denominators: list[int]) -> None:
        """Write what a step adds: its dropout key, and what its losses are divided by.

        Args:
            dropout_key: random bits of the step, 0 to 2**64 - 1.
            denominators: of each term, of the global batch.
        """
        keys = site_keys(dropout_key, np.arange(self.shape.sites))
        counts = np.array(denominators, dtype=np.float32)
        header = np.concatenate([keys.view(np.int32), counts.view(np.int32)])
        self.buffers[:, : len(header)] = torch.from_numpy(header)


def in_fixed_shape(batch: Batch, shape: FixedShape) -> FixedBatch:
    """Share the sequences of a batch out over as few micro-batches of `shape` as take them.

    Raises:
        ValueError: a sequence is longer than the shape's longest.
    """
    if batch.lengths[0] > shape.max_length:
        raise ValueError(
            f"Sequences must have at most {shape.max_length} tokens; got {batch.lengths[0]}."
        )
    lengths, counts = np.array(batch.lengths), np.array(batch.num_masked_each)
    number = math.ceil(batch.num_tokens / (shape.most_units * shape.unit))
    while True:
        groups = deal(batch.lengths, number)
        members = [np.flatnonzero(groups == n) for n in range(number)]
        units = max(_units(lengths[own], counts[own], shape) for own in members)
        if units <= shape.most_units:
            break
        number += 1
        if number > 2 * batch.num_sequences:
            raise ValueError(f"A sequence must fit in {shape}; one does not.")
    found = torch.zeros((number, shape.size(units)), dtype=torch.int32)
    for own, buffer in zip(members, found, strict=True):
        _lay_out(batch, own, lengths, counts, shape, units, buffer)
    return FixedBatch(shape, units, found, batch.sizes)


def _units(lengths: Int64, counts: Int64, shape: FixedShape) -> int:
    """The fewest units that take these sequences and the filler; too many if none do."""
    least = max(
        _LEAST_UNITS,
        math.ceil((int(lengths.sum()) + 1) / shape.unit),
        math.ceil(int(counts.sum()) / shape.masked_in_unit),
    )
    for units in range(least, shape.most_units + 1):
        fillers = _num_fillers(lengths, counts, shape, units)
        if len(lengths) + fillers > shape.sequences:
            break
        if int(lengths.sum()) + fillers <= units * shape.unit:
            return units
    return shape.most_units + 1


def _num_fillers(lengths: Int64, counts: Int64, shape: FixedShape, units: int) -> int:
    """Filler sequences: none has more than L tokens, or more than L of the rows that are left."""
    tokens = units * shape.unit - int(lengths.sum())
    rows = shape.sequences + units * shape.masked_in_unit - len(lengths) - int(counts.sum())
    return max(1, math.ceil(tokens / shape.max_length), math.ceil(rows / shape.max_length))


def _lay_out(
    batch: Batch,
    own: Int64,
    all_lengths: Int64,
    all_counts: Int64,
    shape: FixedShape,
    units: int,
    buffer: Tensor,
) -> None:
    """Write the sequences `own` and the filler into a buffer of zeros."""
    views = shape.views(buffer, units)
    constants = constants_of(shape, views.constants)
    ids, types, positions, global_positions, token_rows = views.tokens.view(5, -1).numpy()
    masked_rows, labels = views.masked.view(2, -1).numpy()
    rows, row_masks, row_firsts = views.rows.numpy()
    lengths, counts = all_lengths[own], all_counts[own]
    tokens, sequences, masked = int(lengths.sum()), len(own), int(counts.sum())
    fillers = _num_fillers(lengths, counts, shape, units)
    filler = _even(len(ids) - tokens, fillers)

    starts = batch.cu_seqlens.numpy()[:-1].astype(np.int64)[own]
    source, new_starts = _ranges(starts, lengths)
    ids[:tokens] = batch.input_ids.numpy()[source]
    types[:tokens] = batch.token_type_ids.numpy()[source]
    positions[:tokens] = batch.position_ids.numpy()[source]
    global_positions[:tokens] = np.repeat(np.array(batch.starts)[own], lengths) + positions[:tokens]
    positions[tokens:], filler_starts = _ranges(np.zeros(fillers, dtype=np.int64), filler)
    _set_ends(constants["cu_seqlens"], np.concatenate([lengths, filler]))

    # [CLS] of each sequence and then its masked tokens. The rows that are left read the first
    # token of a filler sequence, since a query meets the keys of its own sequence.
    source, _ = _ranges((np.cumsum(all_counts) - all_counts)[own], counts)
    is_masked = np.ones(sequences + masked, dtype=bool)
    firsts = np.cumsum(1 + counts) - (1 + counts)
    is_masked[firsts] = False
    rows[firsts] = new_starts
    rows[: sequences + masked][is_masked] = batch.masked_positions.numpy()[source] + np.repeat(
        new_starts - starts, counts
    )
    filler_rows = _even(len(rows) - sequences - masked, fillers)
    rows[sequences + masked :] = np.repeat(tokens + filler_starts, filler_rows)
    _set_ends(constants["row_cu_seqlens"], np.concatenate([1 + counts, filler_rows]))
    token_rows[:] = row_masks[:] = row_firsts[:] = -1
    token_rows[rows[: sequences + masked]] = np.arange(sequences + masked)
    row_masks[: sequences + masked][is_masked] = np.arange(masked)
    row_firsts[firsts] = np.arange(sequences)
    masked_rows[:masked] = np.flatnonzero(is_masked)
    masked_rows[masked:] = len(rows) - 1
    labels[:masked] = batch.masked_labels.numpy()[source]
    labels[masked:] = IGNORED
    constants["sequence_labels"][:] = IGNORED
    if shape.is_pairs:
        pair_labels = batch.sequence_labels[torch.from_numpy(own)]
        constants["sequence_labels"][:sequences] = pair_labels


def constants_of(shape: FixedShape, constants: Tensor) -> dict[str, Tensor]:
    """The parts of `Views.constants` by name: `dropout_keys` int64 [S], `denominators` float32
    [terms], the others int32.
    """
    sizes = shape.constants
    parts = dict(zip(sizes, constants.split(list(sizes.values())), strict=True))
    parts["dropout_keys"] = parts["dropout_keys"].view(torch.int64)
    parts["denominators"] = parts["denominators"].view(torch.float32)
    return parts


def _set_ends(cu_seqlens: Tensor, lengths: Int64) -> None:
    """Write where sequences end; those beyond `lengths` are empty."""
    cu_seqlens[1:] = int(lengths.sum())
    cu_seqlens[1 : 1 + len(lengths)] = torch.from_numpy(np.cumsum(lengths))


def _even(total: int, number: int) -> Int64:
    """`total` in `number` parts that differ by 1 at most."""
    return np.diff(np.arange(number + 1) * total // number)


def _ranges(starts: Int64, lengths: Int64) -> tuple[npt.NDArray[np.int64], Int64]:
    """The integers start, …, start + length − 1 of each range in turn, and where each begins."""
    begins = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - begins, lengths), begins


@dataclass(frozen=True)
class FixedBatches:
    """Batches of a run in a fixed shape: `batch(number)` is a pure function, as of `Batches`."""

    batches: Batches
    shape: FixedShape

    def batch(self, number: int) -> FixedBatch:
        """The batch of optimizer step `number`, from 0."""
        return in_fixed_shape(self.batches.batch(number), self.shape)

    def filler(self, steps: int) -> float:
        """Tokens of filler beside the real ones of so many steps: 0.01 is one in a hundred."""
        found = [self.batch(number) for number in range(steps)]
        there = sum(len(batch.buffers) * batch.units * self.shape.unit for batch in found)
        return there / sum(batch.sizes.num_tokens for batch in found) - 1
