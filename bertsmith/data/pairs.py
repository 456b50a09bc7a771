"""Sentence pairs: which run of tokens is A, which is B, and whether B truly follows A.

Two ways to pair, with one interface: `num_pairs`, and `draw(numbers, epoch)`, which gives for each
pair number the token runs of A and B. Half of the time B is drawn at random, anew in every epoch.

Legend: B = pairs drawn at once; S = sentences in the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from bertsmith.data.random_bits import Int64, Stream, below, extend, random_bits, uniform
from bertsmith.data.store import TokenStore

NUM_SPECIAL_IN_PAIR = 3
"""[CLS] A [SEP] B [SEP]."""

_TRIES = 4  # redraws of a random B that happens to read like the true one


@dataclass(frozen=True, kw_only=True)
class PairSpans:
    """Token runs in the store, each int64 [B], ends exclusive; nothing is cut yet."""

    a_start: Int64
    a_end: Int64
    b_start: Int64
    b_end: Int64
    is_random: npt.NDArray[np.bool_]
    """bool [B]; True = B does not follow A (label 1 of next sentence prediction)."""


class Pairing(Protocol):
    """A way to make pairs of a store."""

    num_pairs: int
    """Pairs an epoch."""

    def draw(self, numbers: Int64, epoch: Int64) -> PairSpans:
        """The pairs `numbers` (int64 [B], in [0, num_pairs)) as they are in `epoch` (int64 [B])."""
        ...


def make_pairing(
    kind: Literal["adjacent", "filled"],
    store: TokenStore,
    *,
    seed: int,
    max_length: int,
    short_pair_probability: float,
) -> Pairing:
    """The pairing called `kind`; the other arguments as in `DataConfig` and `TrainingConfig`."""
    if kind == "adjacent":
        return AdjacentPairs(store, seed=seed)
    return FilledPairs(
        store,
        seed=seed,
        num_tokens=max_length - NUM_SPECIAL_IN_PAIR,
        short_pair_probability=short_pair_probability,
    )


class AdjacentPairs:
    """The textbook's pairs (d2l.ai 15.9): two neighbouring sentences of one paragraph.

    A random B is any sentence outside A's paragraph. Where it differs from the textbook: there a
    "random" B can be the true next sentence; here it is drawn again, and if chance insists, the
    pair keeps its true B and the label that says so.
    """

    def __init__(self, store: TokenStore, *, seed: int) -> None:
        self._store = store
        self._seed = seed
        is_last = np.zeros(store.num_sentences, dtype=bool)
        is_last[store.paragraph_offsets[1:] - 1] = True
        self._first_sentences = np.flatnonzero(~is_last)
        self.num_pairs = len(self._first_sentences)

    def draw(self, numbers: Int64, epoch: Int64) -> PairSpans:
        offsets, paragraphs = self._store.sentence_offsets, self._store.paragraph_offsets
        a = self._first_sentences[numbers]
        b = a + 1
        bits = random_bits(self._seed, Stream.NEXT_SENTENCE, epoch, numbers)
        is_random = np.zeros(len(a), dtype=bool)
        undecided = np.flatnonzero(_coin(bits))
        paragraph = np.searchsorted(paragraphs, a, side="right") - 1
        first, end = paragraphs[paragraph], paragraphs[paragraph + 1]
        if len(paragraphs) == 2:  # a text of one paragraph: anything but the pair itself
            first, end = a, a + 2
        for turn in range(_TRIES):
            other, exists = _sentence_outside(
                extend(bits[undecided], 1 + turn),
                first[undecided],
                end[undecided],
                self._store.num_sentences,
            )
            same = _same_text(self._store, other, a[undecided] + 1) | ~exists
            b[undecided[~same]] = other[~same]
            is_random[undecided[~same]] = True
            undecided = undecided[same]
        return PairSpans(
            a_start=offsets[a],
            a_end=offsets[a + 1],
            b_start=offsets[b],
            b_end=offsets[b + 1],
            is_random=is_random,
        )


class FilledPairs:
    """The original BERT's pairs (google-research/bert, create_pretraining_data.py).

    Documents are laid out in chunks of sentences that fill the length. Each epoch parts a chunk
    anew: A is its first sentences, B the rest, or a run of about that length from another document.
    A tenth of the pairs are made shorter. Where it differs from the original: a chunk has
    at least two sentences (the last one of a document reaches back for its second), so that the
    label cannot be told from the shape; the random B is as long as the true one, not as long as
    there is room; and text behind a short or replaced part is not carried
    over to the next chunk, since another epoch parts it otherwise.
    """

    def __init__(
        self, store: TokenStore, *, seed: int, num_tokens: int, short_pair_probability: float
    ) -> None:
        self._store = store
        self._seed = seed
        self._num_tokens = num_tokens
        self._short = short_pair_probability
        self._chunk_starts, self._chunk_ends = _chunks(store, num_tokens)
        self.num_pairs = len(self._chunk_starts)

    def draw(self, numbers: Int64, epoch: Int64) -> PairSpans:
        offsets, documents = self._store.sentence_offsets, self._store.document_offsets
        shape = random_bits(self._seed, Stream.PAIR_SHAPE, epoch, numbers)
        start = self._chunk_starts[numbers]
        is_short = uniform(extend(shape, 0)) < self._short
        target = np.where(
            is_short, 2 + below(extend(shape, 1), self._num_tokens - 1), self._num_tokens
        )
        end = np.clip(_fitting_end(offsets, start, target), start + 2, self._chunk_ends[numbers])
        b = start + 1 + below(extend(shape, 2), end - start - 1)  # the first sentence of B
        b_end = end

        bits = random_bits(self._seed, Stream.NEXT_SENTENCE, epoch, numbers)
        document = np.searchsorted(documents, start, side="right") - 1
        outside = documents[document], documents[document + 1]
        if len(documents) == 2:  # a text of one document: anything but the chunk itself
            outside = start, end
        other, exists = _sentence_outside(extend(bits, 1), *outside, self._store.num_sentences)
        # As long as the true B would be, so that no length tells the label: a run that would meet
        # its document's end too early begins earlier.
        room = offsets[b_end] - offsets[b]
        other_document = np.searchsorted(documents, other, side="right") - 1
        latest = (
            np.searchsorted(offsets, offsets[documents[other_document + 1]] - room, "right") - 1
        )
        other = np.maximum(np.minimum(other, latest), documents[other_document])
        other_end = np.clip(
            _nearest_end(offsets, other, room), other + 1, documents[other_document + 1]
        )
        apart = (other_end <= start) | (other >= end)  # may fail in a text of one document
        is_random = _coin(bits) & exists & apart & ~_same_text(self._store, other, b)
        b_start = np.where(is_random, other, b)
        return PairSpans(
            a_start=offsets[start],
            a_end=offsets[b],
            b_start=offsets[b_start],
            b_end=offsets[np.where(is_random, other_end, b_end)],
            is_random=is_random,
        )


def cut_lengths(a: Int64, b: Int64, num_tokens: int) -> tuple[Int64, Int64]:
    """Lengths of A and B, int64 [B] each, cut from the longer one until both fit in `num_tokens`.

    The closed form of taking tokens off the longer side until the pair fits; of an odd room, the
    side that was longer (B if none was) keeps the one token more. What `transformers` calls
    `longest_first`.
    """
    shorter = np.minimum(np.minimum(a, b), num_tokens // 2)
    longer = np.minimum(np.maximum(a, b), num_tokens - shorter)
    return np.where(a <= b, shorter, longer), np.where(a <= b, longer, shorter)


def _coin(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    return (extend(bits, 0) & np.uint64(1)).astype(bool)


def _sentence_outside(
    bits: npt.NDArray[np.uint64], first: Int64, end: Int64, num_sentences: int
) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """A random sentence not in [first, end), int64 [B], and whether there is any, bool [B]."""
    outside = num_sentences - (end - first)
    drawn = below(bits, np.maximum(outside, 1))
    drawn = drawn + np.where(drawn >= first, end - first, 0)
    return np.where(outside > 0, drawn, first), outside > 0


def _same_text(store: TokenStore, left: Int64, right: Int64) -> npt.NDArray[np.bool_]:
    """Whether sentences `left` and `right`, int64 [B] each, are the same, token for token."""
    offsets = store.sentence_offsets
    same = (offsets[left + 1] - offsets[left]) == (offsets[right + 1] - offsets[right])
    for i in np.flatnonzero(same):
        x, y = left[i], right[i]
        same[i] = np.array_equal(
            store.ids[offsets[x] : offsets[x + 1]], store.ids[offsets[y] : offsets[y + 1]]
        )
    return same


def _fitting_end(offsets: Int64, start: Int64, num_tokens: npt.ArrayLike) -> Int64:
    """The sentence before which a run from `start` must end to have at most `num_tokens` tokens."""
    return np.searchsorted(offsets, offsets[start] + np.asarray(num_tokens), side="right") - 1


def _nearest_end(offsets: Int64, start: Int64, num_tokens: Int64) -> Int64:
    """The sentence before which a run from `start` must end to be nearest to `num_tokens` long."""
    fitting = _fitting_end(offsets, start, num_tokens)
    longer = np.minimum(fitting + 1, len(offsets) - 1)
    wanted = offsets[start] + num_tokens
    return np.where(offsets[longer] - wanted < wanted - offsets[fitting], longer, fitting)


def _chunks(store: TokenStore, num_tokens: int) -> tuple[Int64, Int64]:
    """First and end sentence of each chunk: two sentences, and more while they fit."""
    every = np.arange(store.num_sentences)
    fitting = np.maximum(
        _fitting_end(store.sentence_offsets, every, num_tokens), every + 2
    ).tolist()
    starts: list[int] = []
    ends: list[int] = []
    bounds = store.document_offsets.tolist()
    for first, end in pairwise(bounds):
        sentence = first
        while end - first >= 2 and sentence < end:
            sentence = min(sentence, end - 2)
            starts.append(sentence)
            ends.append(min(fitting[sentence], end))
            sentence = ends[-1]
    return np.array(starts, dtype=np.int64), np.array(ends, dtype=np.int64)
