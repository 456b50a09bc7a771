"""The sides of the CPU benchmark: `python -m benchmarks.sides SIDE CORPUS STEPS` prints figures.

Each side's `prepare` gives a function that makes one optimizer step and returns its pairs and real
tokens. The peers run their own code: the textbook's model, data set and loop from the `d2l` package
1.0.3, and `transformers.BertForPreTraining` with its own loss on batches padded to 64.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

SIDES = {
    "bertsmith": "Bertsmith",
    "textbook": "textbook (`d2l` 1.0.3)",
    "transformers": "`transformers.BertForPreTraining`",
}
BATCH_SIZE = 512
MAX_LENGTH = 64
_IMPORTED_BY_D2L = (
    "torchvision torchvision.transforms pandas gym scipy scipy.spatial IPython IPython.display "
    "matplotlib_inline matplotlib_inline.backend_inline"
).split()
Step = Callable[[], tuple[int, int]]
_clock: dict[str, float] = {"batches": 0.0}


def bertsmith(corpus: str) -> Step:
    """The library's own preparation and training step."""
    from bertsmith.config import resolve
    from bertsmith.model.bert import Bert
    from bertsmith.model.device import autocast, choose_device, default_micro_batch_size
    from bertsmith.training.display import Display
    from bertsmith.training.optimizer import make_optimizer
    from bertsmith.training.prepare import prepare
    from bertsmith.training.step import train_step

    config = resolve(overrides={"corpus": (corpus,), "batch_size": BATCH_SIZE, "device": "cpu"})
    prepared = prepare(config.data, batch_size=BATCH_SIZE, seed=0, display=Display(quiet=True))
    model = Bert(config.model, prepared.tokenizer.vocab_size)
    model.initialize(0)
    model.train()
    device = choose_device("cpu")
    optimizer = make_optimizer(model, config.training)
    number = 0

    def step() -> tuple[int, int]:
        nonlocal number
        began = time.perf_counter()
        batch = prepared.batches.batch(number)
        _clock["batches"] += time.perf_counter() - began
        number += 1
        train_step(
            model,
            optimizer,
            batch,
            micro_batch_size=default_micro_batch_size(device, config.model, MAX_LENGTH),
            max_grad_norm=config.training.max_grad_norm,
            device=device,
            autocast=autocast(device, "float32"),
        )
        _clock["masked"] = _clock.get("masked", 0) + batch.num_masked
        return batch.num_sequences, batch.num_tokens

    return step


def textbook(corpus: str) -> Step:
    """The chapter's code: its data set, model, loss and optimizer (d2l.ai 15.9 and 15.10)."""
    d2l = _import_d2l()
    lines = (_wikitext(corpus) / "wiki.train.tokens").read_text(encoding="utf-8").split("\n")
    # As `d2l._read_wiki`, which also downloads; its address has been dead since 2024.
    paragraphs = [
        line.strip().lower().split(" . ")
        for line in (f"{line}\n" for line in lines)
        if len(line.split(" . ")) >= 2
    ]
    data = d2l._WikiTextDataset(paragraphs, MAX_LENGTH)
    loader = torch.utils.data.DataLoader(data, BATCH_SIZE, shuffle=True, num_workers=0)
    net = d2l.BERTModel(
        len(data.vocab), num_hiddens=128, ffn_num_hiddens=256, num_heads=2, num_blks=2, dropout=0.2
    )
    net(
        *[torch.zeros(1, n, dtype=torch.long) for n in (MAX_LENGTH,)] * 2,
        torch.tensor([64.0]),
        torch.zeros(1, 10, dtype=torch.long),
    )  # its lazy layers take shape
    loss = torch.nn.CrossEntropyLoss()
    trainer = torch.optim.Adam(net.parameters(), lr=0.01)
    batches = iter(loader)

    def step() -> tuple[int, int]:
        tokens, segments, valid_lens, positions, weights, labels, nsp = next(batches)
        trainer.zero_grad()
        _, _, total = d2l._get_batch_loss_bert(
            net,
            loss,
            len(data.vocab),
            tokens,
            segments,
            valid_lens,
            positions,
            weights,
            labels,
            nsp,
        )
        total.backward()
        trainer.step()
        return len(tokens), int(valid_lens.sum())

    return step


def transformers(corpus: str) -> Step:
    """`BertForPreTraining` of the same size, padded to 64, its own loss, fused AdamW."""
    from transformers import BertConfig, BertForPreTraining

    from bertsmith.config import resolve
    from bertsmith.model.layout import Layout
    from bertsmith.training.display import Display
    from bertsmith.training.prepare import prepare

    config = resolve(overrides={"corpus": (corpus,), "batch_size": BATCH_SIZE})
    prepared = prepare(config.data, batch_size=BATCH_SIZE, seed=0, display=Display(quiet=True))
    model = BertForPreTraining(
        BertConfig(
            vocab_size=prepared.tokenizer.vocab_size,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=256,
            hidden_act="relu",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    number = 0

    def step() -> tuple[int, int]:
        nonlocal number
        batch = prepared.batches.batch(number)
        number += 1
        layout = Layout.of((*batch.lengths, MAX_LENGTH), torch.device("cpu"))
        labels = torch.full_like(batch.input_ids, -100)
        labels[batch.masked_positions] = batch.masked_labels
        filler = torch.zeros(MAX_LENGTH, dtype=torch.long)  # one row more, so that all have 64

        def pad(packed: torch.Tensor) -> torch.Tensor:
            return layout.pad(torch.cat([packed, filler])[:, None]).squeeze(2)[:-1]

        ids = pad(batch.input_ids)
        mask = pad(torch.ones_like(batch.input_ids))
        found = model(
            input_ids=ids,
            token_type_ids=pad(batch.token_type_ids),
            attention_mask=mask,
            labels=pad(labels).masked_fill(mask == 0, -100),
            next_sentence_label=batch.next_sentence_labels,
        )
        found.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return batch.num_sequences, batch.num_tokens

    return step


def measure(side: str, corpus: str, steps: int) -> dict[str, float]:
    """Prepare a side, make a first step, time `steps` more."""
    began = time.perf_counter()
    step: Step = globals()[side](corpus)
    step()
    ready = time.perf_counter()
    _clock.update(batches=0.0, masked=0.0)
    counts = np.array([step() for _ in range(steps)])
    seconds = time.perf_counter() - ready
    pairs, tokens = counts.sum(0).tolist()
    figures = {
        "pairs_per_second": pairs / seconds,
        "tokens_per_second": tokens / seconds,
        "seconds_to_first_step": ready - began,
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "batch_share": _clock["batches"] / seconds,
    }
    if side == "bertsmith":
        flops = model_flops(tokens, int(_clock["masked"]), pairs)
        figures["model_gigaflops_per_second"] = flops / seconds / 1e9
        figures["matrix_gigaflops_per_second"] = matrix_rate() / 1e9
    return figures


def model_flops(tokens: int, masked: int, pairs: int) -> float:
    """Multiply-adds × 2 of the matrix products of forward and backward, over real tokens.

    Attention counts each sequence at the mean length, a little under the true sum of squares.
    """
    hidden, inner, layers, vocabulary = 128, 256, 2, 20_256
    length = tokens / pairs
    layer = 4 * hidden**2 + 2 * hidden * inner + 2 * length * hidden
    head = hidden**2 + hidden * vocabulary
    forward = 2 * (tokens * layers * layer + masked * head + pairs * (hidden**2 + 2 * hidden))
    return 3 * forward


def matrix_rate(size: int = 2048, repeats: int = 12) -> float:
    """FLOP/s of a large float32 matrix product: the median of some."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / float(np.median(seconds))


def _wikitext(corpus: str) -> Path:
    from bertsmith.corpus.download import fetch_wikitext

    return Path(corpus) if Path(corpus).is_dir() else fetch_wikitext()


def _import_d2l() -> Any:
    """The `d2l` package. What its head imports and nothing here calls may be missing."""
    missing = []
    for name in _IMPORTED_BY_D2L:
        try:
            __import__(name)
        except ImportError:
            module: Any = types.ModuleType(name)
            module.__getattr__ = lambda attribute: None
            module.__path__ = []
            sys.modules[name] = module
            missing.append(name)
    from d2l import torch as d2l

    for name in missing:  # torch looks at what is imported, and takes these for the real ones
        del sys.modules[name]
    return d2l


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
