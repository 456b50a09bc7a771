"""Losses and accuracies on held-out examples whose second sentences and masks never change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch

from bertsmith.config import DataConfig
from bertsmith.data.batches import Batches
from bertsmith.data.pairs import make_drawing
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
    nsp_loss: float | None
    """Over pairs; None of segments."""
    nsp_accuracy: float | None
    """Share of pairs judged rightly; half are random. None of segments."""
    num_pairs: int
    """Or segments."""
    num_masked_tokens: int

    def metrics(self, split: str = "validation") -> dict[str, float | int]:
        """The figures by the names they have in metrics.jsonl: `validation_…`."""
        return {
            f"{split}_{name}": value for name, value in asdict(self).items() if value is not None
        }

    def lines(self) -> list[str]:
        """The figures for a reader."""
        found = [f"MLM loss {self.mlm_loss:.3f}, MLM accuracy {self.mlm_accuracy:.1%}"]
        if self.nsp_loss is not None:
            found.append(f"NSP loss {self.nsp_loss:.3f}, NSP accuracy {self.nsp_accuracy:.1%}")
        unit = "segments" if self.nsp_loss is None else "pairs"
        masked = f"{self.num_masked_tokens:,} masked tokens"
        return [*found, f"on {self.num_pairs:,} {unit}, {masked}"]


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
    total = min(batches.num_examples, most_pairs or batches.num_examples)
    num_pairs = total if batches.is_pairs else 0
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
        nsp_loss=nsp / num_pairs if num_pairs else None,
        nsp_accuracy=nsp_correct / num_pairs if num_pairs else None,
        num_pairs=total,
        num_masked_tokens=num_masked,
    )
