"""Dropout as a function of where a number stands in the global batch.

There is no generator: which numbers are dropped follows from the seed, the step, the dropout site
in the network and the position in the batch (invariant 2). So a resumed run drops the same ones,
and so does a run that cuts its batches into other micro-batches. It is also several times quicker
on a CPU than PyTorch's dropout, whose generator works through numbers one after another.

Legend: R = rows, one for each token; H = hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertsmith.hardware.device import to_device
from bertsmith.random_bits import Int64, extend

_LANES = 4  # random numbers of 16 bits in one of 64
_WIDEST = 2**20  # numbers that belong to one token; keeps different tokens apart
_SPREAD = -7046029254386353131  # SplitMix64's constants, as signed numbers
_MIX = (-4658895280553007687, -7723592293110705685)


@dataclass(frozen=True)
class DropoutKey:
    """What decides the dropout of a micro-batch: the step's key and the positions of its tokens."""

    key: int | Tensor
    """64 random bits of the step, 0 to 2**64 - 1; or int64 [S], on the device, the key of every
    dropout site as `site_keys` makes them, so that a compiled step reads it as data."""
    tokens: Tensor
    """int64 [R]; the position of each row's token in the global batch."""
    first_site: int = 0
    """The dropout site of the network that is 0 here."""

    def at_sites(self, first: int, count: int) -> DropoutKey:
        """The same for `count` sites from `first`, which are then counted from 0: for a layer, in
        which nothing then tells its number.
        """
        if isinstance(self.key, Tensor):
            return DropoutKey(self.key[first : first + count], self.tokens)
        return DropoutKey(self.key, self.tokens, self.first_site + first)

    def of(self, rows: Tensor) -> DropoutKey:
        """The same for some of the rows: int64 [S]."""
        return DropoutKey(self.key, self.tokens.index_select(0, rows), self.first_site)

    def keeps(self, site: int, tokens: Tensor, width: int, probability: float) -> Tensor:
        """Which of the `width` numbers that belong to each token stay: bool [..., width].

        A token's numbers are its hidden state or, in a head, its attention probabilities.

        Args:
            site: which dropout of the network; different ones are independent.
            tokens: int64 [...]; positions in the global batch.
            width: at most 2**20.
            probability: of being dropped, to within 1 / 2**17.
        """
        columns = torch.arange(-(-width // _LANES), device=tokens.device)
        counters = tokens[..., None] * (_WIDEST // _LANES) + columns
        if isinstance(self.key, Tensor):
            key: int | Tensor = self.key[site]
        else:
            key = int(site_keys(self.key, [self.first_site + site])[0])
        bits = _mix_(counters, key)
        return (bits.view(torch.int16) >= _threshold(probability))[..., :width]

    def keeps_at_sites(
        self, sites: range, tokens: Tensor, width: int, probability: float
    ) -> Tensor:
        """`keeps` at several sites one after another, at once: bool [B, N, Q, width].

        Args:
            sites: N of them.
            tokens: int64 [B, Q].
            width, probability: as in `keeps`.
        """
        key = self.key
        if isinstance(key, Tensor):
            keys = key[sites.start : sites.stop]
        else:
            made = site_keys(key, self.first_site + np.arange(sites.start, sites.stop))
            keys = to_device(torch.from_numpy(made), tokens.device)
        columns = torch.arange(-(-width // _LANES), device=tokens.device)
        counters = tokens[:, None, :, None] * (_WIDEST // _LANES) + columns
        counters = counters.expand(-1, len(sites), -1, -1).contiguous()
        bits = _mix_(counters, keys[:, None, None])
        return (bits.view(torch.int16) >= _threshold(probability))[..., :width]


def site_keys(key: int, sites: npt.ArrayLike) -> Int64:
    """The keys of some dropout sites of the network in a step of this key: int64 [S]."""
    return extend(np.array([key], dtype=np.uint64), sites).view(np.int64)


def dropout(
    hidden: Tensor, probability: float, dropout_key: DropoutKey | None, site: int
) -> Tensor:
    """Numbers of `hidden` [R, H] set to 0 with `probability`, the others scaled up.

    Args:
        dropout_key: None outside training: nothing is dropped.
        site: which dropout of the network this is.
    """
    if dropout_key is None or not probability:
        return hidden
    keeps = dropout_key.keeps(site, dropout_key.tokens, hidden.shape[1], probability)
    if torch.compiler.is_compiling():
        # The same numbers. PyTorch 2.11 compiles the function below to one without a gradient.
        return torch.where(keeps, hidden * scale_of_kept(probability), 0)
    dropped: Tensor = _Dropout.apply(hidden, keeps, scale_of_kept(probability))
    return dropped


def scale_of_kept(probability: float) -> float:
    """What kept numbers are multiplied with: 1 over the true share of them."""
    return 2**16 / (2**15 - _threshold(probability))


class _Dropout(torch.autograd.Function):
    """Keeps a byte for each number until the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, keeps: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keeps)
        ctx.scale = scale
        return (hidden * keeps).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (keeps,) = ctx.saved_tensors
        return (grads[0] * keeps).mul_(ctx.scale), None, None


def _threshold(probability: float) -> int:
    """Numbers of 16 bits, -2**15 to 2**15 - 1, are dropped below this one."""
    return min(round(probability * 2**16), 2**16 - 1) - 2**15


def _mix_(counters: Tensor, key: int | Tensor) -> Tensor:
    """SplitMix64 of `key` + counter, in place: int64 to int64, as `random_bits` does it."""
    bits = counters.add_(1).mul_(_SPREAD).add_(key)
    for shift, factor in zip((30, 27), _MIX, strict=True):
        bits.bitwise_xor_(_shifted(bits, shift)).mul_(factor)
    return bits.bitwise_xor_(_shifted(bits, 31))


def _shifted(bits: Tensor, by: int) -> Tensor:
    """A shift to the right that fills with zeros; int64's own fills with the sign."""
    return (bits >> by).bitwise_and_(2 ** (64 - by) - 1)
