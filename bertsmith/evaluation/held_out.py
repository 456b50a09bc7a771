"""Losses and accuracies on held-out examples whose second sentences and masks never change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from bertsmith.architectures import Encoder
from bertsmith.batch import Batch
from bertsmith.config import DataConfig
from bertsmith.data.batches import Batches
from bertsmith.data.pairs import make_drawing
from bertsmith.data.store import TokenStore
from bertsmith.evaluation.pseudo import PseudoPerplexity
from bertsmith.evaluation.tally import Bin, LossTally, MaskedTally
from bertsmith.objectives import Objective
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

    figures: Mapping[str, float | None]
    """Of each term of the objective `mlm_loss` and the like, a mean in nats; where it has guesses
    `…_accuracy`, the share that is right; where it has two labels `…_majority_accuracy`, what the
    more frequent one, given to all, would reach. Of masked tokens `…_perplexity`, exp(loss), and
    what word frequencies alone would give, `unigram_…_loss` and `unigram_…_accuracy`, if they are
    known. None where no masked token was scored, since every word is unknown."""
    unit: Literal["pairs", "segments"]
    """What an example is."""
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

        Those of masked tokens are None without any.
        """
        counts = {"num_pairs": self.num_pairs, "num_masked_tokens": self.num_masked_tokens}
        return {f"{split}_{name}": value for name, value in {**self.figures, **counts}.items()}

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
    model: Encoder,
    objective: Objective,
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
        objective: whose terms are scored.
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
    tallies = {
        term.name: MaskedTally(counts) if term.predicts_masked_tokens else LossTally(term.count)
        for term in objective.terms
    }
    for part, counted in _parts_of_rank(batches, total, micro_batch, ranks, progress):
        scores = model.call(objective.score, part.to(device))
        for name, tally in tallies.items() if counted else ():
            tally.add(part, scores[name])
    model.train(was_training)
    figures: dict[str, float | None] = {}
    for name, tally in tallies.items():
        tally.add_up(ranks.sum)
        figures |= tally.figures(name)
    masked = next((t for t in tallies.values() if isinstance(t, MaskedTally)), None)
    return Evaluation(
        # What takes no model comes last.
        figures=dict(sorted(figures.items(), key=lambda item: item[0].startswith("unigram"))),
        unit="pairs" if batches.is_pairs else "segments",
        num_pairs=total,
        num_masked_tokens=masked.num_tokens if masked else 0,
        by_length=masked.by_length.bins() if masked else (),
        by_frequency=masked.frequency_bins if masked else (),
    )


def _parts_of_rank(
    batches: Batches,
    total: int,
    micro_batch: int,
    ranks: Ranks,
    progress: Callable[[int, int], None],
) -> Iterator[tuple[Batch, bool]]:
    """Micro-batches for this rank's share of `total` examples, and whether each counts.

    Ranks that hold parts of one model must go through it equally often: one that has fewer
    micro-batches, or none, repeats some that do not count. `progress` is told after each.
    """
    none = np.zeros(1, dtype=np.int64)
    for start in range(0, total, batches.batch_size * ranks.size):
        first = start + ranks.rank * batches.batch_size
        places = np.arange(first, min(first + batches.batch_size, total), dtype=np.int64)
        parts = batches.examples(places if len(places) else none).split(micro_batch)
        seen = 0
        for number in range(int(ranks.gather([len(parts)]).max())):
            part = parts[min(number, len(parts) - 1)]
            yield part, number < len(parts) and len(places) > 0
            seen += part.num_sequences
            progress(min(start + seen * ranks.size, total), total)
