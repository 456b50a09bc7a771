"""Losses and accuracies on held-out examples whose second sentences and masks never change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from bertsmith.config import DataConfig
from bertsmith.data.batches import Batches
from bertsmith.data.pairs import make_drawing
from bertsmith.data.store import TokenStore
from bertsmith.evaluation.pseudo import PseudoPerplexity
from bertsmith.evaluation.tally import Bin, MaskedTally
from bertsmith.model.bert import Bert
from bertsmith.random_bits import Int64
from bertsmith.ranks import ALONE, Ranks
from bertsmith.tokenizer import Tokenizer

EVALUATION_SEED = 15_8_10
"""Fixed: every model with the same tokenizer meets the same pairs and the same masks."""

EVALUATION_MLM_PROBABILITY = 0.15

_PAIRS_AT_ONCE = 512  # sorted by length together; micro-batches are cut from them


CountsOf = Literal["training text", "evaluated text"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures over a validation set; losses are true means in nats."""

    mlm_loss: float | None
    """Over masked tokens; None if there is not one, since every word is unknown."""
    mlm_perplexity: float | None
    """exp(`mlm_loss`): among so many words, all alike, a guess would be as hard."""
    mlm_accuracy: float | None
    """Share of masked tokens whose first guess is right."""
    nsp_loss: float | None
    """Over pairs; None of segments."""
    nsp_accuracy: float | None
    """Share of pairs judged rightly; None of segments."""
    nsp_majority_accuracy: float | None
    """What the more frequent answer, given to all pairs, would reach; None of segments."""
    unigram_mlm_loss: float | None
    """What word frequencies alone would give; None if they are not known."""
    unigram_mlm_accuracy: float | None
    """What the most frequent word, given for all masks, would reach."""
    num_pairs: int
    """Or segments."""
    num_masked_tokens: int
    by_length: tuple[Bin, ...]
    """Masked tokens by the length of their sequence."""
    by_frequency: tuple[Bin, ...]
    """Masked tokens by their count in the training text; empty if that is not known."""

    counts_of: CountsOf = "training text"
    """Where words were counted for the unigram figures and for `by_frequency`."""
    pseudo: PseudoPerplexity | None = None
    """Of whole sentences, if that was asked for."""

    def metrics(self, split: str = "validation") -> dict[str, float | int | None]:
        """The figures that are single numbers, as metrics.jsonl names them: `validation_…`.

        Those that were not asked for are left out; those of masked tokens are None without any.
        """
        names = (
            "mlm_loss mlm_perplexity mlm_accuracy nsp_loss nsp_accuracy nsp_majority_accuracy "
            "unigram_mlm_loss unigram_mlm_accuracy num_pairs num_masked_tokens"
        ).split()
        return {
            f"{split}_{name}": value
            for name in names
            if (value := getattr(self, name)) is not None or name.startswith("mlm_")
        }

    @property
    def is_finite(self) -> bool:
        """Whether all figures are numbers, as those of a model that has diverged are not."""
        figures = [*self.metrics().values(), None if self.pseudo is None else self.pseudo.loss]
        return all(math.isfinite(value) for value in figures if value is not None)

    def to_json(self, split: str = "validation") -> dict[str, Any]:
        """All figures: those of `metrics`, the bins, and the pseudo-perplexity if there is one."""
        found: dict[str, Any] = dict(self.metrics(split))
        found[f"{split}_counts_of"] = self.counts_of
        found[f"{split}_by_length"] = [asdict(part) for part in self.by_length]
        found[f"{split}_by_frequency"] = [asdict(part) for part in self.by_frequency]
        if self.pseudo is not None:
            found[f"{split}_pseudo"] = asdict(self.pseudo)
        return found


def evaluation_batches(store: TokenStore, tokenizer: Tokenizer, data: DataConfig) -> Batches | None:
    """The fixed examples of a held-out store, or None if there is not one in it.

    Whatever `data` says of masking, 15 % of the tokens are masked, one by one.
    """
    drawing = make_drawing(store, data, seed=EVALUATION_SEED)
    if not drawing.num_examples:
        return None
    return Batches(
        store,
        drawing,
        tokenizer,
        batch_size=min(_PAIRS_AT_ONCE, drawing.num_examples),
        max_length=data.max_length,
        mlm_probability=EVALUATION_MLM_PROBABILITY,
        seed=EVALUATION_SEED,
    )


@torch.no_grad()
def evaluate(
    model: Bert,
    batches: Batches,
    *,
    device: torch.device,
    micro_batch: int,
    most_pairs: int | None = None,
    counts: Int64 | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Losses and accuracies of `model`, without dropout.

    Args:
        model: on `device`; its mode (train or eval) is put back at the end.
        batches: of `evaluation_batches`.
        device: where the model is.
        micro_batch: tokens at once.
        most_pairs: stop after so many, always the same ones; None: each pair once.
        counts: int64 [V]; how often each entry stands in the training text, special tokens 0. Gives
            the figures of word frequencies, and those by frequency.
        progress: told about how many pairs are done, and of how many; on every rank equally often.
        ranks: who share the work; all get the figures.
    """
    was_training = model.training
    model.eval()
    total = min(batches.num_examples, most_pairs or batches.num_examples)
    tally = MaskedTally(counts)
    places_of_none = np.zeros(1, dtype=np.int64)
    pairs = np.zeros(3)  # NSP loss, right answers, random second sentences
    for start in range(0, total, batches.batch_size * ranks.size):
        first = start + ranks.rank * batches.batch_size
        places = np.arange(first, min(first + batches.batch_size, total), dtype=np.int64)
        parts = batches.examples(places if len(places) else places_of_none).split(micro_batch)
        seen = 0
        # Ranks that hold parts of one model must go through it equally often.
        for number in range(int(ranks.gather([len(parts)]).max())):
            part = parts[min(number, len(parts) - 1)]
            judged = model.score(part.to(device))
            seen += part.num_sequences
            progress(min(start + seen * ranks.size, total), total)
            if number >= len(parts) or not len(places):
                continue
            tally.add(part, judged.mlm_losses, judged.mlm_correct)
            labels = part.next_sentence_labels
            found = (judged.nsp_losses.double(), judged.nsp_correct, labels)
            pairs += [float(values.sum()) for values in found]
    model.train(was_training)
    tally.add_up(ranks.sum)
    nsp_loss, nsp_right, num_random = ranks.sum(pairs).tolist()
    has_pairs = batches.is_pairs and total > 0
    share_random = num_random / max(total, 1)
    return Evaluation(
        mlm_loss=tally.loss,
        mlm_perplexity=tally.perplexity,
        mlm_accuracy=tally.accuracy,
        nsp_loss=nsp_loss / total if has_pairs else None,
        nsp_accuracy=nsp_right / total if has_pairs else None,
        nsp_majority_accuracy=max(share_random, 1 - share_random) if has_pairs else None,
        unigram_mlm_loss=tally.unigram_loss,
        unigram_mlm_accuracy=tally.unigram_accuracy,
        num_pairs=total,
        num_masked_tokens=tally.num_tokens,
        by_length=tally.by_length.bins(),
        by_frequency=tally.frequency_bins,
    )
