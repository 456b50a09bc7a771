"""A plain `transformers` loop on the batches of a run: BertForPreTraining, AdamW, padded to 64.

    python -m benchmarks.transformers_loop CORPUS PAIRS SEED FOLDER

Its own loss over logits at all positions, its own initialisation and dropout, warm-up and linear
decay as its examples have them. Prints the closing figures, judged by `bertsmith.evaluate`'s code
on the same pairs and masks.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bertsmith.batch import Batch
from bertsmith.config import resolve
from bertsmith.data.store import word_counts
from bertsmith.display import Display
from bertsmith.evaluation.held_out import evaluate
from bertsmith.hardware.device import keep_freed_memory
from bertsmith.nn.layout import Layout
from bertsmith.objectives import objective_of
from bertsmith.saved.hugging_face import load_model
from bertsmith.training.prepare import prepare

BATCH_SIZE = 128
LEARNING_RATE = 2e-3
MAX_LENGTH = 64


def textbook_model(vocab_size: int, **settings: Any) -> Any:
    """A new `BertForPreTraining` of the textbook's size, in training mode."""
    from transformers import BertConfig, BertForPreTraining

    shape = BertConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        hidden_act="relu",
        **settings,
    )
    return BertForPreTraining(shape).train()


def padded(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch as `BertForPreTraining` takes it: int64 [B, 64], −100 where nothing is predicted."""
    layout = Layout.of((*batch.lengths, MAX_LENGTH), torch.device("cpu"))
    filler = torch.zeros(MAX_LENGTH, dtype=torch.long)  # one row more, so that all have 64

    def pad(packed: torch.Tensor) -> torch.Tensor:
        return layout.pad(torch.cat([packed, filler])[:, None]).squeeze(2)[:-1]

    labels = torch.full_like(batch.input_ids, -100)
    labels[batch.masked_positions] = batch.masked_labels
    mask = pad(torch.ones_like(batch.input_ids))
    return {
        "input_ids": pad(batch.input_ids),
        "token_type_ids": pad(batch.token_type_ids),
        "attention_mask": mask,
        "labels": pad(labels).masked_fill(mask == 0, -100),
        "next_sentence_label": batch.sequence_labels,
    }


def train(corpus: str, pairs: int, seed: int, folder: Path) -> dict[str, float | None]:
    """Train from scratch, save, and judge what was saved."""
    from transformers import get_linear_schedule_with_warmup

    overrides = {
        "corpus": (corpus,),
        "mlm_probability": 0.15,
        "batch_size": BATCH_SIZE,
        "seed": seed,
    }
    config = resolve(preset="textbook", overrides=overrides)
    display = Display(quiet=True)
    prepared = prepare(config.preparation, config.data, config.training, display=display)
    keep_freed_memory()
    torch.manual_seed(seed)
    model = textbook_model(prepared.tokenizer.vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    steps = -(-pairs // BATCH_SIZE)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    began = time.perf_counter()
    for step in range(steps):
        found = model(**padded(prepared.batches.batch(step)))
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step} of {steps}: {found.loss.item():.3f}", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - began
    model.save_pretrained(folder)
    prepared.tokenizer.save(folder)
    assert prepared.validation is not None
    judged = evaluate(
        load_model(folder).model,
        objective_of("mlm+nsp"),
        prepared.validation,
        device=torch.device("cpu"),
        micro_batch=2**13,
        counts=word_counts(prepared.batches.store, prepared.tokenizer),
    )
    return {**judged.metrics(), "seconds": seconds, "pairs": steps * BATCH_SIZE}


if __name__ == "__main__":
    figures = train(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    print(json.dumps({"finished": True, **figures}))
