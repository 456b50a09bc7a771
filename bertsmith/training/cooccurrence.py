"""First word embeddings: from which tokens stand near each other in the training text.

The positive pointwise mutual information (PPMI) of tokens and the tokens around them, factorized by
a truncated SVD (Levy, Goldberg and Dagan 2015, "Improving distributional similarity with lessons
learned from word embeddings", sections 2 and 3: a window weighted by distance, context distribution
smoothing, the root of the singular values). Inner products of such vectors say which tokens go
together, which is what a tied MLM head begins to compute with them. We differ in the window, which
is short, and in what is made of the vectors: a random rotation, after which no dimension is larger
than another, and a root mean square of four times `initializer_range`, near to what training makes
of it: what is smaller is gone before the rest of the network can use it (docs/experiments.md).

Legend: V = vocabulary; H = hidden size; K = pairs of tokens that were seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertsmith.data.store import Shard, TokenStore
from bertsmith.random_bits import Int64

_WINDOW = 2  # tokens to each side
_SMOOTHING = 0.75  # power of a context's frequency
_SCALE = 4.0  # root mean square, in standard deviations of what is drawn
_MOST_TOKENS = 20_000_000  # of a larger text the first part of each shard is counted
_PAIRS_AT_ONCE = 2**23
_OVERSAMPLING = 2  # times the dimensions, in the randomized SVD (Halko, Martinsson and Tropp 2011)
_ITERATIONS = 4  # of its power method: with 2 and few dimensions more a run learns 0.04 nats less


class Counts(NamedTuple):
    """How often pairs of tokens were seen, each pair once, in rising order."""

    keys: Int64
    """int64 [K]; the first token times V, plus the second."""
    numbers: Int64
    """int64 [K]."""

    @staticmethod
    def of(keys: Sequence[Int64], numbers: Sequence[Int64]) -> Counts:
        """Of parts in which a pair may stand several times."""
        all_keys = np.concatenate([np.zeros(0, np.int64), *keys])
        order = np.argsort(all_keys, kind="stable")
        all_keys = all_keys[order]
        firsts = np.flatnonzero(np.diff(all_keys, prepend=-1))
        sums = np.concatenate([np.zeros(0, np.int64), *numbers])[order]
        return Counts(all_keys[firsts], np.add.reduceat(sums, firsts) if len(firsts) else sums)


def word_embeddings(
    store: TokenStore,
    shape: Sequence[int],
    *,
    deviation: float,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Vectors whose inner products say which tokens stand near each other.

    Args:
        store: the training text.
        shape: V and H.
        deviation: standard deviation of what is drawn, as all other weights of the network are.
        seed: of what is drawn: the vectors of tokens that go with no other (special ones, and such
            as are not in the text), the randomized SVD, and the rotation.
        progress: told how many tokens are counted, of how many.

    Returns:
        float32 [V, H].
    """
    vocab_size, hidden_size = shape
    information = ppmi(cooccurrences(store, vocab_size, progress=progress), vocab_size)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.empty(vocab_size, hidden_size).normal_(0.0, deviation, generator=generator)
    seen = torch.zeros(vocab_size, dtype=torch.bool)
    seen[information.indices()[0]] = True
    if not seen.any():
        return drawn
    vectors = truncated_svd(information, hidden_size, seed=seed)
    rotation, _ = torch.linalg.qr(torch.randn(hidden_size, hidden_size, generator=generator))
    vectors = vectors @ rotation
    vectors *= _SCALE * deviation / vectors[seen].square().mean().sqrt()
    return torch.where(seen[:, None], vectors, drawn)


def cooccurrences(
    store: TokenStore,
    vocab_size: int,
    *,
    most_tokens: int = _MOST_TOKENS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Counts:
    """How often two tokens stand within the window in a paragraph, neighbours counted twice.

    Args:
        store: the text.
        vocab_size: V.
        most_tokens: that are counted; of each shard the first part.
        progress: told how many tokens are counted, of how many.

    Returns:
        The counts, symmetric.
    """
    found, waiting, num_waiting = Counts.of([], []), [], 0
    done, most = 0, min(most_tokens, store.num_tokens)
    for shard, *_ in store.shards():
        count = len(shard.ids) * most // max(1, store.num_tokens)
        for part in _neighbours(shard, count, vocab_size):
            waiting.append(part)
            num_waiting += len(part.keys)
            if num_waiting >= _PAIRS_AT_ONCE:
                found, waiting, num_waiting = _merged([found, *waiting]), [], 0
        done += count
        progress(done, most)
    found = _merged([found, *waiting])
    first, second = np.divmod(found.keys, vocab_size)
    return Counts.of([found.keys, second * vocab_size + first], [found.numbers] * 2)


def _merged(parts: Sequence[Counts]) -> Counts:
    return Counts.of([part.keys for part in parts], [part.numbers for part in parts])


def _neighbours(shard: Shard, count: int, vocab_size: int) -> Iterator[Counts]:
    """The pairs among the first tokens of a shard, by the one on the left; not merged."""
    ends = shard.sentence_offsets[shard.paragraph_offsets][1:]
    last = np.searchsorted(ends, count)  # the paragraph that the first tokens end in
    lengths = np.diff(ends[: last + 1], prepend=0)
    paragraph = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[:count]
    ids = shard.ids[:count].astype(np.int64)
    for distance in range(1, _WINDOW + 1):
        together = paragraph[:-distance] == paragraph[distance:]
        keys = (ids[:-distance] * vocab_size + ids[distance:])[together]
        for first in range(0, len(keys), _PAIRS_AT_ONCE):
            part = keys[first : first + _PAIRS_AT_ONCE]
            yield Counts(part, np.full(len(part), _WINDOW + 1 - distance, dtype=np.int64))


def ppmi(counts: Counts, vocab_size: int) -> Tensor:
    """PPMI: log p(token, context) / (p(token) p(context)) where that is over 0, contexts smoothed.

    Args:
        counts: of pairs.
        vocab_size: V.

    Returns:
        A sparse float32 [V, V], coalesced, of what is over 0.
    """
    token, context = np.divmod(counts.keys, vocab_size)
    of_token = np.bincount(token, counts.numbers, minlength=vocab_size)
    of_context = of_token**_SMOOTHING
    of_context /= max(1.0, of_context.sum())
    information = np.log(counts.numbers / of_token[token] / of_context[context])
    positive: npt.NDArray[np.bool_] = information > 0
    return torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([token[positive], context[positive]])),
        torch.from_numpy(information[positive].astype(np.float32)),
        (vocab_size, vocab_size),
        check_invariants=False,
        is_coalesced=True,
    )


def truncated_svd(matrix: Tensor, size: int, *, seed: int) -> Tensor:
    """U √S of the truncated singular value decomposition U S Vᵀ of `matrix`.

    Args:
        matrix: sparse float32 [V, V].
        size: singular values that are kept; what V lacks of it is 0.
        seed: of the random projection.

    Returns:
        float32 [V, size].
    """
    found = min(size, len(matrix))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rank = min(_OVERSAMPLING * found, len(matrix))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this layout, the quicker one, is in beta
            rows = matrix.to_sparse_csr()
            left, singular, _ = torch.svd_lowrank(rows, q=rank, niter=_ITERATIONS)
    vectors = torch.zeros(len(matrix), size)
    vectors[:, :found] = left[:, :found] * singular[:found].sqrt()
    return vectors
