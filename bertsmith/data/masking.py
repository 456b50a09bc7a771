"""Which tokens are to be predicted, and what stands in their place (Devlin et al. 2018, 3.1).

Tokens are chosen one by one, by words (whole-word masking, google-research/bert, 2019), or by runs
of words (Joshi et al. 2019, SpanBERT, 3.1).

Legend: T = tokens of a batch; B = sequences; M = tokens to predict; W = words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bertsmith.config.registered import MASKINGS
from bertsmith.errors import ConfigError, DataError
from bertsmith.random_bits import Int64, UInt64, below, extend, uniform

_MASK_SHARE = 0.8  # of the chosen tokens become [MASK]
_RANDOM_SHARE = 0.1  # become a random word; the rest stay as they are
_LONGEST_WORD = 8  # tokens; where nothing parts words, a whole sentence would be one
_LONGEST_SPAN = 10  # words
_SPAN_STOPS = (
    0.2  # chance that a span ends after each of its words: geometric, 3.8 words on average
)


class MaskingInput(NamedTuple):
    """What a masking of one's own chooses from: the tokens of a batch, sequences end to end."""

    ids: Int64
    """int64 [T]."""
    maskable: npt.NDArray[np.bool_]
    """bool [T]; False for special tokens."""
    continues: npt.NDArray[np.bool_]
    """bool [T]; whether the token goes on with the word before it."""
    sequence: Int64
    """int64 [T]; the sequence of each token, rising from 0."""
    bits: UInt64
    """uint64 [T]; random, and always the same for the same example of an epoch. Whatever is drawn
    must follow from them (`bertsmith.random_bits`), so that a resumed run meets the same masks."""
    probability: float
    """Share of the maskable tokens to predict."""


Masking = Callable[[MaskingInput], Int64]
"""Gives the places of the tokens to predict: int64 [M], rising, all maskable."""

_MASKINGS: dict[str, Masking] = {}


def register(name: str, masking: Masking) -> None:
    """Let settings name a masking: `masking="name"`, `--masking name`.

    Args:
        name: that no other has.
        masking: a function of a module, since processes that make batches import it.

    Raises:
        ConfigError: there is one of this name.
    """
    if name in MASKINGS:
        raise ConfigError(f"There must be one masking of a name; {name!r} is there.")
    _MASKINGS[name] = masking
    MASKINGS.append(name)


def registered_masking(name: str) -> Masking | None:
    """The masking of a name; None: it is one of this module's own."""
    return _MASKINGS.get(name)


def choose_by(masking: Masking, given: MaskingInput) -> Int64:
    """What a registered masking chooses. Raises: `DataError` if these are not such places."""
    masked = np.asarray(masking(given))
    is_right = (
        masked.ndim == 1
        and masked.dtype.kind == "i"
        and (np.diff(masked) > 0).all()
        and (not len(masked) or (masked[0] >= 0 and masked[-1] < len(given.ids)))
        and given.maskable[masked].all()
    )
    if not is_right:
        raise DataError(
            "A masking must give places of maskable tokens, whole numbers that rise; got "
            f"{masked.dtype} {list(masked.shape)}."
        )
    return masked.astype(np.int64)


def choose_positions(
    maskable: npt.NDArray[np.bool_], sequence: Int64, bits: UInt64, probability: float
) -> Int64:
    """In each sequence a share of the maskable tokens, without replacement.

    The number is `probability` × maskable tokens, rounded, but at least 1 where there is any: the
    original's rule, with special tokens not counted.

    Args:
        maskable: bool [T]; False for special tokens.
        sequence: int64 [T]; the sequence of each token, in rising order.
        bits: uint64 [T]; random.
        probability: 0 to 1.

    Returns:
        int64 [M], rising.
    """
    candidates = np.flatnonzero(maskable)
    of = sequence[candidates]
    counts, wanted = _wanted(of, sequence, probability)
    keys = _keys(of, bits[candidates])
    starts = np.cumsum(counts) - counts
    if not len(candidates):
        return candidates
    # Up to the last that is wanted: keys are sorted several times as fast as their places.
    chosen = keys <= np.sort(keys)[starts + wanted - 1][of]
    if np.count_nonzero(chosen) > wanted.sum():  # some keys are equal: the first ones are taken
        rank = np.arange(len(candidates)) - np.repeat(starts, counts)  # within its sequence
        chosen[np.argsort(keys, kind="stable")] = rank < np.repeat(wanted, counts)
    return candidates[chosen]


def words_of(maskable: npt.NDArray[np.bool_], continues: npt.NDArray[np.bool_]) -> Int64:
    """The first token of each word, int64 [W], rising; words hold maskable tokens only.

    Words of more than eight tokens are parted.

    Args:
        maskable: bool [T]; False for special tokens, which end words.
        continues: bool [T]; whether the token goes on with the word before it.
    """
    before = np.concatenate([[False], maskable[:-1]])
    begins = maskable & ~(continues & before)
    place = np.arange(len(maskable))
    last = np.maximum.accumulate(np.where(begins, place, 0))
    return np.flatnonzero(begins | (maskable & ((place - last) % _LONGEST_WORD == 0)))


def choose_words(
    maskable: npt.NDArray[np.bool_],
    firsts: Int64,
    sequence: Int64,
    bits: UInt64,
    probability: float,
) -> Int64:
    """In each sequence whole words, in random order, as long as their tokens fit in the share.

    As many tokens as `choose_positions` would choose, or a few less if no word fits any more; a
    sequence whose words are all too long gives one.

    Args:
        maskable: bool [T].
        firsts: int64 [W]; of `words_of`.
        sequence: int64 [T].
        bits: uint64 [T]; random.
        probability: 0 to 1.

    Returns:
        int64 [M], rising.
    """
    of = sequence[firsts]
    lengths = _word_lengths(maskable, firsts)
    _, room = _wanted(sequence[maskable], sequence, probability)
    order = _shuffled(of, bits[firsts])
    waiting = order
    taken = np.zeros(len(firsts), dtype=bool)
    # Word after word, each taken if it fits: as many at once as all fit, then without those that
    # never will.
    while len(waiting := waiting[lengths[waiting] <= room[of[waiting]]]):
        total = np.cumsum(lengths[waiting])
        begins = np.concatenate([[True], np.diff(of[waiting]) > 0])
        before = (total - lengths[waiting])[
            np.maximum.accumulate(np.where(begins, np.arange(len(waiting)), 0))
        ]
        fits = total - before <= room[of[waiting]]
        taken[waiting[fits]] = True
        room -= np.bincount(of[waiting[fits]], lengths[waiting[fits]], len(room)).astype(np.int64)
        waiting = waiting[~fits]
    empty = np.bincount(of, taken, len(room)) == 0
    heads = order[np.concatenate([[True], np.diff(of[order]) > 0])] if len(order) else order
    taken[heads[empty[of[heads]]]] = True
    return _tokens_of(firsts[taken], lengths[taken])


def choose_spans(
    maskable: npt.NDArray[np.bool_],
    firsts: Int64,
    sequence: Int64,
    bits: UInt64,
    probability: float,
) -> tuple[Int64, Int64]:
    """In each sequence runs of whole words, of a geometric length, until the share is reached.

    It may fall short by a token or two where no word is as short as what is left. Every sequence
    tries one run a round; a run that meets one before it is not taken, and one that is longer than
    what is left is made shorter by words.

    Args:
        maskable, firsts, sequence, probability: as in `choose_words`.
        bits: uint64 [B]; random.

    Returns:
        int64 [M], rising, and int64 [M]: the first token of the run that each of them is in.
    """
    of = sequence[firsts]
    lengths = _word_lengths(maskable, firsts)
    _, room = _wanted(sequence[maskable], sequence, probability)
    num_words = np.bincount(of, minlength=len(room))
    first_word = np.cumsum(num_words) - num_words
    ends = np.concatenate([[0], np.cumsum(lengths)])  # tokens of the words before each
    run_of = np.full(len(firsts), -1, dtype=np.int64)  # the first word of the run it is in
    active = np.flatnonzero((room > 0) & (num_words > 0))
    for turn in range(_LONGEST_SPAN + 2 * int(room.max(initial=0))):
        if not len(active):
            break
        draw = extend(bits[active], turn)
        start = first_word[active] + below(extend(draw, 0), num_words[active])
        wish = np.log1p(-uniform(extend(draw, 1)) * (1 - (1 - _SPAN_STOPS) ** _LONGEST_SPAN))
        count = 1 + (wish / np.log1p(-_SPAN_STOPS)).astype(np.int64)
        fitting = np.searchsorted(ends, ends[start] + room[active], side="right") - 1
        stop = np.minimum(
            np.minimum(start + count, fitting), first_word[active] + num_words[active]
        )
        size = np.maximum(stop - start, 0)
        row, words = np.repeat(np.arange(len(active)), size), _tokens_of(start, size)
        meets = np.bincount(row, run_of[words] >= 0, len(active)) > 0
        good = ~meets & (size > 0)
        kept = good[row]
        run_of[words[kept]] = start[row[kept]]
        room[active[good]] -= ends[stop[good]] - ends[start[good]]
        active = active[room[active] > 0]
    empty = (np.bincount(of, run_of >= 0, len(room)) == 0) & (num_words > 0)
    alone = first_word[empty] + below(bits[empty], num_words[empty])
    run_of[alone] = alone
    taken = np.flatnonzero(run_of >= 0)
    run = np.repeat(firsts[run_of[taken]], lengths[taken])
    return _tokens_of(firsts[taken], lengths[taken]), run


def replace_tokens(
    tokens: Int64,
    bits: UInt64,
    mask_id: int,
    regular_ids: Int64,
    together: UInt64 | None = None,
) -> Int64:
    """What the model sees of the chosen tokens: 80 % [MASK], 10 % a random word, 10 % the token.

    Args:
        tokens: int64 [M]; the true ones.
        bits: uint64 [M]; random.
        mask_id: id of [MASK].
        regular_ids: int64 [V]; ids of words: a random word is never a special token.
        together: uint64 [M]; random, equal for tokens that are to fare alike; None: `bits`.
    """
    draw = uniform(extend(bits if together is None else together, 0))
    random_words = regular_ids[below(extend(bits, 1), len(regular_ids))]
    return np.where(
        draw < _MASK_SHARE,
        mask_id,
        np.where(draw < _MASK_SHARE + _RANDOM_SHARE, random_words, tokens),
    )


def _wanted(of: Int64, sequence: Int64, probability: float) -> tuple[Int64, Int64]:
    """Maskable tokens of each sequence and how many of them to choose, int64 [B] each.

    Args:
        of: the sequence of each maskable token.
        sequence: of each token, rising.
        probability: the share.
    """
    counts = np.bincount(of, minlength=int(sequence[-1]) + 1 if len(sequence) else 0)
    wanted = np.minimum(np.maximum(np.rint(probability * counts).astype(np.int64), 1), counts)
    return counts, wanted


def _shuffled(of: Int64, bits: UInt64) -> Int64:
    """An order of things by the sequence that they are of, and within it at random."""
    return np.argsort(_keys(of, bits), kind="stable")


def _keys(of: Int64, bits: UInt64) -> UInt64:
    """What one sort for all sequences goes by: the sequence, and under it 40 random bits."""
    return (of.astype(np.uint64) << np.uint64(40)) | (bits >> np.uint64(24))


def _word_lengths(maskable: npt.NDArray[np.bool_], firsts: Int64) -> Int64:
    """Tokens of each word: int64 [W]."""
    return np.add.reduceat(maskable, firsts, dtype=np.int64) if len(firsts) else firsts


def _tokens_of(firsts: Int64, lengths: Int64) -> Int64:
    """The numbers of runs, end to end."""
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(firsts, lengths) + within
