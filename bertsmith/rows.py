"""Texts as rows of tokens, rows as batches, and what a network makes of many.

Legend: N = rows; B = those of a batch; T = tokens of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bertsmith.batch import Batch
from bertsmith.errors import DivergenceError
from bertsmith.hardware.device import autocast
from bertsmith.nn.layout import Layout, PackedInput
from bertsmith.ranks import ALONE, Ranks
from bertsmith.tokenizer import Tokenizer
from bertsmith.tokenizer.texts import kept_places, say_what_is_unknown, say_what_was_cut

Labels = npt.NDArray[np.int64] | npt.NDArray[np.float32]
"""[B] or [B, n]; numbers of classes, scores, or what the objective says."""

_CPU = torch.device("cpu")
_TOKENS_AT_ONCE = 2**14


class Row(NamedTuple):
    """A text or pair, cut to length."""

    ids: list[int]
    segments: list[int]


def tokenize(
    texts: Sequence[tuple[str, str | None]], tokenizer: Tokenizer, *, source: str = ""
) -> tuple[list[Row], int]:
    """Rows of at most the tokenizer's `max_length` tokens, and how many were longer.

    Those that are cut or hold no known word are said, as of `source`.
    """
    rows, lengths = [], []
    num_cut = num_unknown = 0
    special = frozenset(tokenizer.special_ids.tolist())
    for ids, segments in tokenizer.encode_many(texts):
        kept = kept_places(segments, tokenizer.max_length)
        lengths.append(len(ids))
        num_cut += len(kept) < len(ids)
        num_unknown += tokenizer.unk_id in ids and special.issuperset(ids)
        rows.append(Row([ids[i] for i in kept], [segments[i] for i in kept]))
    say_what_is_unknown(num_unknown, len(rows), source=source)
    say_what_was_cut(lengths, tokenizer.max_length, source=source)
    return rows, num_cut


def packed(
    rows: Sequence[Row],
    targets: Labels | None = None,
    starts: Sequence[int] = (),
    tags: Sequence[Sequence[int]] | None = None,
) -> Batch:
    """Rows as a batch in which nothing is masked.

    Args:
        rows: longest first, where the batch is split.
        targets: B labels; None: none.
        starts: of each row's first token in the global batch.
        tags: of each row those of its tokens, which take the place of masked tokens; -1: none.
    """
    inputs = PackedInput.of(rows, _CPU)
    layout = inputs.layout
    assert isinstance(layout, Layout)
    flat = torch.tensor([tag for row in tags or () for tag in row], dtype=torch.int64)
    tagged = (flat >= 0).nonzero().squeeze(1)
    return Batch(
        input_ids=inputs.input_ids,
        token_type_ids=inputs.token_type_ids,
        position_ids=inputs.position_ids,
        cu_seqlens=layout.cu_seqlens,
        masked_positions=tagged,
        masked_labels=flat[tagged],
        sequence_labels=flat[:0] if targets is None else torch.from_numpy(targets),
        lengths=layout.lengths,
        num_masked_each=tuple(sum(tag >= 0 for tag in row) for row in tags or [()] * len(rows)),
        starts=tuple(starts),
    )


@torch.inference_mode()
def over_rows(
    function: Callable[[Batch], torch.Tensor],
    rows: Sequence[Row],
    width: int,
    device: torch.device,
    *,
    precision: str,
    ranks: Ranks = ALONE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> npt.NDArray[np.float32]:
    """What a function of batches gives for rows, in their order: float32 [N, width].

    Args:
        function: from a batch on the device to [B, width].
        rows: N.
        width: of an output.
        device: where.
        precision: of the matrix products.
        ranks: who calls it; all have the same rows, share the work, and get all outputs.
        progress: told the rows done and in all; on every rank equally often.

    Raises:
        DivergenceError: one is not a finite number; as a class it would be taken for one.
    """
    found = np.zeros((len(rows), width))
    for group in _own_groups(rows, ranks, progress):
        batch = packed([rows[i] for i in group]).to(device)
        with autocast(device, precision):
            found[group] = function(batch).float().cpu().numpy()
    return _finite(ranks.sum(found))  # each is a number and zeros: exact


@torch.inference_mode()
def over_tokens(
    function: Callable[[Batch], torch.Tensor],
    rows: Sequence[Row],
    width: int,
    device: torch.device,
    *,
    precision: str,
    ranks: Ranks = ALONE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[npt.NDArray[np.float32]]:
    """What a function gives for each token of rows, in their order: float32 [tokens, width] each.

    Args:
        function: from a batch on the device, in which every token is to be tagged, to [T, width].
        rows, width, device, precision, ranks, progress: as of `over_rows`.

    Raises:
        DivergenceError: as `over_rows`.
    """
    ends = np.cumsum([0, *(len(row.ids) for row in rows)])
    found = np.zeros((int(ends[-1]), width))
    for group in _own_groups(rows, ranks, progress):
        some = [rows[i] for i in group]
        batch = packed(some, tags=[[0] * len(row.ids) for row in some]).to(device)
        places = np.concatenate([np.arange(ends[i], ends[i + 1]) for i in group])
        with autocast(device, precision):
            found[places] = function(batch).float().cpu().numpy()
    return np.split(_finite(ranks.sum(found)), ends[1:-1])


def _own_groups(
    rows: Sequence[Row], ranks: Ranks, progress: Callable[[int, int], None]
) -> Iterator[list[int]]:
    """Numbers of rows that are a batch together, longest first; those of this rank.

    `progress` is told of all ranks' as if each took as long.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    done = number = 0
    while done < len(order):
        group = order[done : done + max(1, _TOKENS_AT_ONCE // len(rows[order[done]].ids))]
        if number % ranks.size == ranks.rank:
            yield group
        done, number = done + len(group), number + 1
        progress(done, len(order))


def _finite(found: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The same in float32. Raises: `DivergenceError`, as a class it would be taken for one."""
    if not np.isfinite(found).all():
        raise DivergenceError("The outputs are not finite numbers; lower --learning-rate.")
    return found.astype(np.float32)


def with_length_1(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Each vector divided by its length: float32 [N, H]."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: npt.NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return found
