"""Losses and accuracies on held-out pairs whose second sentences and masks never change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch

from bertsmith.data.batches import Batches
from bertsmith.data.pairs import make_pairing
from bertsmith.data.store import TokenStore
from bertsmith.model.bert import Bert
from bertsmith.tokenizer import Tokenizer

EVALUATION_SEED = 15_8_10
"""Fixed: every model with the same tokenizer meets the same pairs and the same masks."""

EVALUATION_MLM_PROBABILITY = 0.15

_PAIRS_AT_ONCE = 512  # sorted by length together; micro-batches are cut from them


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures over a validation set; losses are true means in nats."""

    mlm_loss: float
    """Over masked tokens."""
    mlm_accuracy: float
    """Share of masked tokens whose first guess is right."""
    nsp_loss: float
    """Over pairs."""
    nsp_accuracy: float
    """Share of pairs judged rightly; half are random."""
    num_pairs: int
    num_masked_tokens: int

    def metrics(self) -> dict[str, float | int]:
        """The figures by the names they have in metrics.jsonl: `validation_…`."""
        return {f"validation_{name}": value for name, value in asdict(self).items()}


def evaluation_batches(
    store: TokenStore,
    tokenizer: Tokenizer,
    *,
    pairing: Literal["adjacent", "filled"],
    max_length: int,
    short_pair_probability: float = 0.1,
) -> Batches | None:
    """The fixed pairs of a held-out store, or None if there is not one pair in it."""
    pairs = make_pairing(
        pairing,
        store,
        seed=EVALUATION_SEED,
        max_length=max_length,
        short_pair_probability=short_pair_probability,
    )
    if not pairs.num_pairs:
        return None
    return Batches(
        store,
        pairs,
        tokenizer,
        batch_size=min(_PAIRS_AT_ONCE, pairs.num_pairs),
        max_length=max_length,
        mlm_probability=EVALUATION_MLM_PROBABILITY,
        seed=EVALUATION_SEED,
    )


@torch.inference_mode()
def evaluate(
    model: Bert,
    batches: Batches,
    *,
    device: torch.device,
    micro_batch_size: int,
    most_pairs: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Both losses and accuracies of `model`, without dropout.

    Args:
        model: on `device`; its mode (train or eval) is put back afterwards.
        batches: of `evaluation_batches`.
        device: where the model is.
        micro_batch_size: pairs at once.
        most_pairs: stop after so many, always the same ones; None: each pair once.
        progress: told the pairs done and in all.
    """
    was_training = model.training
    model.eval()
    total = min(batches.num_pairs, most_pairs or batches.num_pairs)
    sums = torch.zeros(4, dtype=torch.float64)
    num_masked = 0
    for start in range(0, total, batches.batch_size):
        places = np.arange(start, min(start + batches.batch_size, total), dtype=np.int64)
        batch = batches.examples(places)
        num_masked += batch.num_masked
        for part in batch.split(micro_batch_size):
            losses, correct = model.evaluate(part.to(device))
            sums += torch.stack([*losses, *correct]).cpu().double()
        progress(int(places[-1]) + 1, total)
    model.train(was_training)
    mlm, nsp, mlm_correct, nsp_correct = sums.tolist()
    return Evaluation(
        mlm_loss=mlm / max(num_masked, 1),
        mlm_accuracy=mlm_correct / max(num_masked, 1),
        nsp_loss=nsp / total,
        nsp_accuracy=nsp_correct / total,
        num_pairs=total,
        num_masked_tokens=num_masked,
    )
