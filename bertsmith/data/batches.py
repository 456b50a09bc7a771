"""Batches: examples cut to length, laid end to end, and masked. Step number in, tensors out.

Legend: B = sequences; T = tokens of all of them; M = tokens to predict.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch

from bertsmith.batch import Batch
from bertsmith.data.deal import deal
from bertsmith.data.masking import (
    MaskingInput,
    choose_by,
    choose_positions,
    choose_spans,
    choose_words,
    registered_masking,
    replace_tokens,
    words_of,
)
from bertsmith.data.pairs import Drawing, Spans
from bertsmith.data.store import TokenStore
from bertsmith.errors import DataError
from bertsmith.random_bits import Int64, Stream, extend, permute, random_bits
from bertsmith.tokenizer import Tokenizer
from bertsmith.tokenizer.truncation import truncated_lengths

_LOOKED_AT_ONCE = 512  # examples


class Batches:
    """All batches of a run: `batch(step)` is a pure function of the store, the seed and the step.

    Example number `step * batch_size + i` of the run, or `first_examples(step) + i`, belongs to
    epoch `// num_examples`; each epoch has its own order, its own random second sentences and its
    own masks, and no example is left over at an epoch's end: a batch may reach into the next one.

    Of a run on several ranks each makes its own part of a batch; the parts make up the batch that
    one alone would have.

    Args:
        store: the split.
        drawing: its examples.
        tokenizer: whose ids these are.
        batch_size: examples a step.
        first_examples: the number in the run of a step's first example, where sizes differ; None:
            all are of `batch_size`.
        max_length: in tokens, special ones counted.
        mlm_probability: share of the tokens to predict, or what gives it for a step, from 0.
        masking: what is chosen at once.
        seed: all follows from it.
        rank, num_ranks: whose part of each batch is made, and of how many.
    """

    def __init__(
        self,
        store: TokenStore,
        drawing: Drawing,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        max_length: int,
        mlm_probability: float | Callable[[int], float],
        seed: int,
        first_examples: Callable[[int], int] | None = None,
        masking: str = "token",
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.num_examples = drawing.num_examples
        self.is_pairs = drawing.is_pairs
        self.counts = drawing.counts
        self.batch_size = batch_size
        self._first_examples = first_examples
        self.store = store
        self._drawing = drawing
        self._tokenizer = tokenizer
        self._num_special = 3 if drawing.is_pairs else 2
        self._max_tokens = max_length - self._num_special
        self._mlm_probability = mlm_probability
        self._masking = masking
        self._own_masking = registered_masking(masking)
        self._seed = seed
        self._rank, self._num_ranks = rank, num_ranks
        self._is_special = np.zeros(tokenizer.vocab_size, dtype=bool)
        self._is_special[tokenizer.special_ids] = True
        self._continues = None if masking == "token" else tokenizer.continues_word()

    def batch(self, step: int) -> Batch:
        """The batch of optimizer step `step`, from 0."""
        return self.examples(self.places(step), step)

    def places(self, step: int) -> Int64:
        """Which examples of the run's endless sequence a step has: int64 [B], rising."""
        if self._first_examples is None:
            first, end = step * self.batch_size, (step + 1) * self.batch_size
        else:
            first, end = self._first_examples(step), self._first_examples(step + 1)
        return np.arange(first, end, dtype=np.int64)

    def examples(self, places: Int64, step: int = 0) -> Batch:
        """The batch of the examples at `places` (int64 [B]) of the run's endless sequence.

        Of several ranks, the part of this one. As many tokens are predicted as in this step.
        """
        epoch = places // self.num_examples
        numbers = permute(places % self.num_examples, self.num_examples, self._seed, epoch)
        spans = self._drawing.draw(numbers, epoch)
        a, b = spans.a_end - spans.a_start, spans.b_end - spans.b_start
        if min(a.min(), b.min()) < 0:
            raise DataError("The store is damaged: a sentence ends before it begins.")
        cut_a, cut_b = a, b
        if self._drawing.is_pairs:
            cut_a, cut_b = truncated_lengths(a, b, self._max_tokens)
        num_cut = (a - cut_a) + (b - cut_b)
        lengths = cut_a + cut_b + self._num_special
        order = np.argsort(-lengths, kind="stable")
        starts = np.cumsum(lengths[order]) - lengths[order]
        if self._num_ranks > 1:
            is_own = deal(lengths[order].tolist(), self._num_ranks) == self._rank
            order, starts = order[is_own], starts[is_own]
        ids, segments, positions, sequence = self._lay_out(spans, cut_a[order], cut_b[order], order)
        lengths, epoch, numbers = lengths[order], epoch[order], numbers[order]
        share = self._mlm_probability
        share = share(step) if callable(share) else share
        masked, labels = self._mask(ids, positions, sequence, epoch, numbers, share)
        return Batch(
            input_ids=torch.from_numpy(ids),
            token_type_ids=torch.from_numpy(segments),
            position_ids=torch.from_numpy(positions),
            cu_seqlens=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
            masked_positions=torch.from_numpy(masked),
            masked_labels=torch.from_numpy(labels),
            sequence_labels=torch.from_numpy(
                spans.is_random[order if self._drawing.is_pairs else order[:0]].astype(np.int64)
            ),
            lengths=tuple(lengths.tolist()),
            starts=tuple(starts.tolist()),
            num_masked_each=tuple(np.bincount(sequence[masked], minlength=len(lengths)).tolist()),
            num_cut_pairs=int(np.count_nonzero(num_cut[order])),
            num_cut_tokens=int(num_cut[order].sum()),
        )

    def has_words(self) -> bool:
        """Whether any example of the first epoch has a token that can be masked: one it knows.

        Of all ranks' parts; of text that the vocabulary suits the first examples tell.
        """
        alone = copy.copy(self)
        alone._num_ranks = 1
        return any(
            alone.examples(
                np.arange(first, min(first + _LOOKED_AT_ONCE, self.num_examples), dtype=np.int64)
            ).num_masked
            for first in range(0, self.num_examples, _LOOKED_AT_ONCE)
        )

    def _lay_out(
        self, spans: Spans, a: Int64, b: Int64, order: Int64
    ) -> tuple[Int64, Int64, Int64, Int64]:
        """[CLS] A [SEP] B [SEP]: ids, segments, positions, sequence numbers; int64 [T] each."""
        lengths = a + b + self._num_special
        starts = np.cumsum(lengths) - lengths
        sequence = np.repeat(np.arange(len(lengths)), lengths)
        positions = np.arange(lengths.sum()) - starts[sequence]
        segments = (positions >= (a + 2)[sequence]).astype(np.int64)
        ids = np.full(len(positions), self._tokenizer.sep_id, dtype=np.int64)
        ids[starts] = self._tokenizer.cls_id
        # Both parts at once: what the store is asked for costs by the call.
        length = np.concatenate([a, b])
        source = np.concatenate([spans.a_start[order], spans.b_start[order]])
        target = np.concatenate([starts + 1, starts + a + 2])
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        ids[np.repeat(target, length) + within] = self.store.tokens(source, length)
        if ids.max() >= len(self._is_special):
            raise DataError("The store is damaged: it has ids that its tokenizer has not.")
        return ids, segments, positions, sequence

    def _mask(
        self,
        ids: Int64,
        positions: Int64,
        sequence: Int64,
        epoch: Int64,
        numbers: Int64,
        share: float,
    ) -> tuple[Int64, Int64]:
        """Choose tokens and replace them in `ids`; gives their places and true ids, int64 [M]."""
        where = random_bits(self._seed, Stream.MASK_POSITION, epoch, numbers)
        what = random_bits(self._seed, Stream.MASK_ACTION, epoch, numbers)
        maskable = ~self._is_special[ids]
        together = None
        if self._own_masking is not None:
            assert self._continues is not None
            bits = extend(where[sequence], positions)
            given = MaskingInput(ids, maskable, self._continues[ids], sequence, bits, share)
            masked = choose_by(self._own_masking, given)
        elif self._continues is None:
            bits = extend(where[sequence], positions)
            masked = choose_positions(maskable, sequence, bits, share)
        else:
            firsts = words_of(maskable, self._continues[ids])
            text = (maskable, firsts, sequence)
            if self._masking == "span":
                masked, run = choose_spans(*text, where, share)
                together = extend(extend(what[sequence[run]], positions[run]), 0)
            else:
                bits = extend(where[sequence], positions)
                masked = choose_words(*text, bits, share)
        labels = ids[masked]
        ids[masked] = replace_tokens(
            labels,
            extend(what[sequence[masked]], positions[masked]),
            self._tokenizer.mask_id,
            self._tokenizer.regular_ids,
            together,
        )
        return masked, labels
