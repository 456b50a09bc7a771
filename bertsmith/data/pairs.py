"""Examples as runs of tokens: A, and of pairs B, which truly follows A or does not.

Three kinds, with one interface: `num_examples`, and `draw(numbers, epoch)`, which gives for each
example number the token runs. Of pairs, B is drawn at random half of the time, anew in every epoch.

Legend: B = examples drawn at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bertsmith.config import DataConfig
from bertsmith.data.examples import Examples, Kind, lay_out
from bertsmith.data.store import TokenStore
from bertsmith.random_bits import Int64, Stream, below, extend, random_bits, uniform
from bertsmith.tokenizer.truncation import NUM_SPECIAL_IN_PAIR

_TRIES = 4  # redraws of a random B that happens to read like the true one


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Token runs in the store, each int64 [B], ends exclusive; nothing is cut yet."""

    a_start: Int64
    a_end: Int64
    b_start: Int64
    """Of segments, which have no B, `a_end`, as `b_end`."""
    b_end: Int64
    is_random: npt.NDArray[np.bool_]
    """bool [B]; True = B does not follow A (label 1 of next sentence prediction)."""


class Drawing(Protocol):
    """A way to make examples of a store."""

    num_examples: int
    """An epoch has so many."""
    is_pairs: bool
    """Whether an example has two parts, and one learns which follows which."""
    counts: Counter[str]
    """Of `Examples`."""

    def draw(self, numbers: Int64, epoch: Int64) -> Spans:
        """The examples `numbers` (int64 [B], under num_examples) as they are in `epoch` ([B])."""
        ...


def kind_of(data: DataConfig) -> Kind:
    """The kind of examples that the settings ask for."""
    return data.pairing if data.is_pairs else "segments"


def make_drawing(
    store: TokenStore,
    data: DataConfig,
    *,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Drawing:
    """The examples of `store` that the settings ask for.

    Args:
        store: a split.
        data: objective, pairing, length.
        seed: of what is drawn.
        progress: told shards laid out and in all.
    """
    examples = lay_out(store, kind_of(data), data.max_length, progress=progress)
    if kind_of(data) == "segments":
        return Segments(examples)
    if data.pairing == "adjacent":
        return AdjacentPairs(store, examples, seed=seed)
    return FilledPairs(
        store,
        examples,
        seed=seed,
        num_tokens=data.max_length - NUM_SPECIAL_IN_PAIR,
        short_pair_probability=data.short_pair_probability,
    )


class Segments:
    """Single runs of a document that fill the length, for masked words alone.

    Every token of the text stands in one example of an epoch: a document that is too long is split
    into as few runs as fit, of about one length.
    """

    is_pairs = False

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self.num_examples = len(examples)
        self.counts = examples.counts

    def draw(self, numbers: Int64, epoch: Int64) -> Spans:
        start, end = self._examples.columns(numbers)
        is_random = np.zeros(len(numbers), dtype=bool)
        return Spans(a_start=start, a_end=end, b_start=end, b_end=end, is_random=is_random)


class AdjacentPairs:
    """The textbook's pairs (d2l.ai 15.9): two neighbouring sentences of one paragraph.

    A random B is any sentence outside A's paragraph. Where it differs from the textbook: there a
    "random" B can be the true next sentence; here it is drawn again, and if chance insists, the
    pair keeps its true B and the label that says so.
    """

    is_pairs = True

    def __init__(self, store: TokenStore, examples: Examples, *, seed: int) -> None:
        self._store = store
        self._seed = seed
        self._examples = examples
        self.num_examples = len(examples)
        self.counts = examples.counts

    def draw(self, numbers: Int64, epoch: Int64) -> Spans:
        (a,) = self._examples.columns(numbers)
        b = a + 1
        bits = random_bits(self._seed, Stream.NEXT_SENTENCE, epoch, numbers)
        is_random = np.zeros(len(a), dtype=bool)
        undecided = np.flatnonzero(_coin(bits))
        first, end = self._store.paragraphs_of(a)
        if self._store.num_paragraphs == 1:  # anything but the pair itself
            first, end = a, a + 2
        for turn in range(_TRIES):
            if not len(undecided):
                break
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
        (a_start, a_end), (b_start, b_end) = self._store.bounds(a), self._store.bounds(b)
        return Spans(
            a_start=a_start, a_end=a_end, b_start=b_start, b_end=b_end, is_random=is_random
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

    is_pairs = True

    def __init__(
        self,
        store: TokenStore,
        examples: Examples,
        *,
        seed: int,
        num_tokens: int,
        short_pair_probability: float,
    ) -> None:
        self._store = store
        self._examples = examples
        self._seed = seed
        self._num_tokens = num_tokens
        self._short = short_pair_probability
        self.num_examples = len(examples)
        self.counts = examples.counts

    def draw(self, numbers: Int64, epoch: Int64) -> Spans:
        store = self._store
        shape = random_bits(self._seed, Stream.PAIR_SHAPE, epoch, numbers)
        start, chunk_end = self._examples.columns(numbers)
        is_short = uniform(extend(shape, 0)) < self._short
        target = np.where(
            is_short, 2 + below(extend(shape, 1), self._num_tokens - 1), self._num_tokens
        )
        start_token = store.start(start)
        end = np.clip(store.sentence_at(start_token + target), start + 2, chunk_end)
        b = start + 1 + below(extend(shape, 2), end - start - 1)  # the first sentence of B
        b_token, end_token = store.start(b), store.start(end)

        bits = random_bits(self._seed, Stream.NEXT_SENTENCE, epoch, numbers)
        outside = store.documents_of(start)
        if store.num_documents == 1:  # anything but the chunk itself
            outside = start, end
        other, exists = _sentence_outside(extend(bits, 1), *outside, store.num_sentences)
        # As long as the true B would be, so that no length tells the label: a run that would meet
        # its document's end too early begins earlier.
        room = end_token - b_token
        other_first, other_last = store.documents_of(other)
        latest = store.sentence_at(np.maximum(store.start(other_last) - room, 0))
        other = np.maximum(np.minimum(other, latest), other_first)
        other_token = store.start(other)
        other_end = np.clip(self._nearest_end(other_token, room), other + 1, other_last)
        apart = (other_end <= start) | (other >= end)  # may fail in a text of one document
        is_random = _coin(bits) & exists & apart & ~_same_text(store, other, b)
        return Spans(
            a_start=start_token,
            a_end=b_token,
            b_start=np.where(is_random, other_token, b_token),
            b_end=np.where(is_random, store.start(other_end), end_token),
            is_random=is_random,
        )

    def _nearest_end(self, start_token: Int64, num_tokens: Int64) -> Int64:
        """The sentence before which a run must end to be nearest to `num_tokens` long."""
        wanted = start_token + num_tokens
        fitting = self._store.sentence_at(wanted)
        longer = np.minimum(fitting + 1, self._store.num_sentences)
        over, under = self._store.start(longer) - wanted, wanted - self._store.start(fitting)
        return np.where(over < under, longer, fitting)


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
    left_start, left_end = store.bounds(left)
    right_start, right_end = store.bounds(right)
    lengths = left_end - left_start
    same = lengths == right_end - right_start
    alike = np.flatnonzero(same)
    lengths = lengths[alike]
    differs = store.tokens(left_start[alike], lengths) != store.tokens(right_start[alike], lengths)
    of = np.repeat(alike, lengths)
    same[of[differs]] = False
    return same
