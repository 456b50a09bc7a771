"""Pseudo-perplexity of whole sentences: every token masked in turn (Salazar et al. 2020, 2.1).

A masked language model gives no probability of a sentence; the product of each word's probability
among all the others takes its place. Where we differ: words that stand outside the vocabulary are
left as [UNK] and not scored, since no text tells them apart.

Legend: S = tokens of a sentence that are scored; M = those of all sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bertsmith.architectures import Encoder
from bertsmith.batch import Batch
from bertsmith.data.store import TokenStore
from bertsmith.evaluation.pll import each_masked
from bertsmith.evaluation.tally import Bin, MaskedTally
from bertsmith.objectives.mlm import MLM, MaskedLM
from bertsmith.random_bits import Int64, permute
from bertsmith.tokenizer import Tokenizer

_NUM_SPECIAL = 2  # [CLS] sentence [SEP]
_ORDER_SEED = 0


@dataclass(frozen=True, kw_only=True)
class PseudoPerplexity:
    """Figures over some sentences, each by itself."""

    loss: float | None
    """Mean over scored tokens of −log probability given all the others, in nats; None if no
    sentence could be scored."""
    perplexity: float | None
    """exp(`loss`)."""
    unigram_loss: float | None
    """What word frequencies of the training text alone would give; None if they are not known."""
    num_sentences: int
    num_tokens: int
    """Scored."""
    num_unknown_tokens: int
    """Not scored: outside the vocabulary."""
    num_long_sentences: int
    """Left out: longer than the model was trained on."""
    by_length: tuple[Bin, ...]
    """Scored tokens by the length of their sentence, [CLS] and [SEP] counted."""
    by_frequency: tuple[Bin, ...]
    """Scored tokens by their count in the training text; empty if that is not known."""


@torch.inference_mode()
def pseudo_perplexity(
    model: Encoder,
    store: TokenStore,
    tokenizer: Tokenizer,
    *,
    num_sentences: int,
    device: torch.device,
    tokens_at_once: int,
    counts: Int64 | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PseudoPerplexity:
    """Score `num_sentences` sentences of `store`, the same ones for every model.

    Args:
        model: in evaluation mode, on `device`.
        store: held-out text, in the tokens of the model.
        tokenizer: whose tokens these are; sentences over its `max_length` are left out.
        num_sentences: at most; drawn without replacement.
        device: where the model is.
        tokens_at_once: of all copies that are on the device together.
        counts: as in `bertsmith.evaluation.held_out.evaluate`.
        progress: told the sentences done and in all.
    """
    tally, objective = MaskedTally(counts), MaskedLM()
    is_special = np.zeros(tokenizer.vocab_size, dtype=bool)
    is_special[tokenizer.special_ids] = True
    total = store.num_sentences
    done = num_long = num_unknown = 0
    for place in range(total):
        if done == num_sentences:
            break
        number = permute(np.array([place]), total, _ORDER_SEED, np.zeros(1, dtype=np.int64))
        start, end = store.bounds(number)
        ids = store.tokens(start, end - start)
        scored = np.flatnonzero(~is_special[ids])
        if not len(scored):
            continue
        if len(ids) + _NUM_SPECIAL > tokenizer.max_length:
            num_long += 1
            continue
        num_unknown += len(ids) - len(scored)
        batch = _masked_in_turn(ids, scored, tokenizer)
        for part in batch.split(tokens_at_once):
            tally.add(part, objective.score(model, part.to(device))[MLM.name])
        done += 1
        progress(done, min(num_sentences, total))
    return PseudoPerplexity(
        loss=tally.loss,
        perplexity=tally.perplexity,
        unigram_loss=tally.unigram_loss,
        num_sentences=done,
        num_tokens=tally.num_tokens,
        num_unknown_tokens=num_unknown,
        num_long_sentences=num_long,
        by_length=tally.by_length.bins(),
        by_frequency=tally.frequency_bins,
    )


def _masked_in_turn(ids: Int64, scored: Int64, tokenizer: Tokenizer) -> Batch:
    """S copies of [CLS] sentence [SEP], each with another of its tokens masked."""
    row = np.concatenate([[tokenizer.cls_id], ids, [tokenizer.sep_id]])
    copies = np.tile(row, (len(scored), 1))  # [S, L]
    copies[np.arange(len(scored)), scored + 1] = tokenizer.mask_id
    return each_masked(copies, scored + 1, ids[scored])
