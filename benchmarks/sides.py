"""The sides of the CPU benchmark: `python -m benchmarks.sides SIDE CORPUS STEPS BEGAN` prints one.

Each side's function prepares the data and gives another that makes one optimizer step and returns
its pairs and real tokens. The peers run their own code: the textbook's model, data set and loop
from the `d2l` package 1.0.3, and `transformers.BertForPreTraining` with its own loss on batches
padded to 64.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from bertsmith.config import PretrainConfig
    from bertsmith.training.prepare import Prepared

SIDES = {
    "bertsmith": "Bertsmith, float32",
    "bertsmith_bfloat16": "Bertsmith, bfloat16",
    "bertsmith_chapter": "Bertsmith, `--recipe chapter` (dropout 0.2), float32",
    "textbook": "textbook (`d2l` 1.0.3; dropout 0.2), float32",
    "transformers": "`transformers.BertForPreTraining` (no dropout), float32",
    "transformers_bfloat16": "the same under its own autocast to bfloat16",
}
OWN = ("bertsmith", "bertsmith_bfloat16", "bertsmith_chapter")
PRESETS = {"textbook": 200, "tiny": 200, "mini": 40, "small": 10, "base": 2}
"""Steps of a turn of each preset; the first is not timed."""
BATCH_SIZE = 512
MAX_LENGTH = 64
SAME_WORK: dict[str, Any] = {
    "batch_size": BATCH_SIZE,
    "mlm_probability": 0.15,
    "optimizer": "adamw",
    "learning_rate": 2e-3,
}
"""What the peers do in a step; the default recipe masks more, which costs more and learns more."""

_IMPORTED_BY_D2L = (
    "torchvision torchvision.transforms pandas gym scipy scipy.spatial IPython IPython.display "
    "matplotlib_inline matplotlib_inline.backend_inline"
).split()
Step = Callable[[], tuple[int, int]]


def prepare_anew(config: PretrainConfig) -> Prepared:
    """From the raw text, as if it had never been prepared before."""
    from bertsmith.display import Display
    from bertsmith.preparation import prepare_store
    from bertsmith.training.prepare import prepare

    # Not in the cache, where the second turn would find it; not removed, since it stays mapped.
    folder = Path(tempfile.mkdtemp(prefix="bertsmith-benchmark-"))
    store = prepare_store(config.preparation, folder / "store")
    return prepare(
        replace(config.preparation, corpus=(str(store.path),)),
        config.data,
        config.training,
        display=Display(quiet=True),
    )


def peak_gigabytes() -> float:
    """The largest this process has been."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class Tally:
    """What a side adds up beside the times of its steps."""

    def __init__(self) -> None:
        self.batch_seconds = 0.0
        self.flops = self.skipped_flops = 0
        self.data_seconds = self.data_gigabytes = 0.0

    @contextmanager
    def data(self) -> Iterator[None]:
        """What runs inside reads raw text and makes the first batch."""
        gigabytes, began = peak_gigabytes(), time.perf_counter()
        yield
        self.data_seconds = time.perf_counter() - began
        self.data_gigabytes = peak_gigabytes() - gigabytes


tally = Tally()


def bertsmith(corpus: str) -> Step:
    """The library's own step, with the peers' work in it."""
    return _own(corpus, precision="float32", **SAME_WORK)


def bertsmith_bfloat16(corpus: str) -> Step:
    """The same in bfloat16."""
    return _own(corpus, precision="bfloat16", **SAME_WORK)


def bertsmith_chapter(corpus: str) -> Step:
    """With the chapter's recipe."""
    return _own(corpus, recipe="chapter", precision="float32", batch_size=BATCH_SIZE)


def preset(corpus: str, name: str, precision: str) -> Step:
    """A preset with its own recipe: its batches, masks and optimizer."""
    return _own(corpus, preset=name, precision=precision)


def _own(
    corpus: str, *, preset: str = "textbook", recipe: str = "default", **settings: Any
) -> Step:
    """The library's own preparation and training step."""
    from bertsmith.architectures import architecture_of
    from bertsmith.config import resolve
    from bertsmith.hardware.device import choose_device, keep_freed_memory, usual_micro_batch
    from bertsmith.objectives import objective_of
    from bertsmith.ranks import ALONE
    from bertsmith.training.engine import EagerEngine
    from bertsmith.training.parallel import Parallel

    overrides = {"corpus": (corpus,), "device": "cpu", **settings}
    config = resolve(preset=preset, recipe=recipe, overrides=overrides)
    with tally.data():
        prepared = prepare_anew(config)
        prepared.batches.batch(0)
    architecture = architecture_of(config.model.architecture)
    objective = objective_of(config.data.objective)
    model = architecture.build(config.model, prepared.tokenizer.vocab_size, objective.heads, 0)
    model.initialize(0)
    model.train()
    device = choose_device("cpu")
    keep_freed_memory()
    engine = EagerEngine(
        Parallel(model, objective, ALONE, "ddp", device),
        config.training,
        prepared.batches,
        device,
        micro_batch=usual_micro_batch(device, config.model),
    )
    number = 0

    def step() -> tuple[int, int]:
        nonlocal number
        began = time.perf_counter()
        batch = engine.make(number)
        tally.batch_seconds += time.perf_counter() - began
        engine.step(batch, dropout_key=number)
        number += 1
        tally.flops += architecture.training_flops(config.model, model.vocab_size, batch)
        tally.skipped_flops += architecture.skipped_flops(config.model, batch)
        return batch.num_sequences, batch.num_tokens

    return step


def textbook(corpus: str) -> Step:
    """The chapter's code: its data set, model, loss and optimizer (d2l.ai 15.9 and 15.10)."""
    d2l = _import_d2l()
    with tally.data():
        text = (_wikitext(corpus) / "wiki.train.tokens").read_text(encoding="utf-8")
        # As `d2l._read_wiki`, which also downloads; its address has been dead since 2024.
        paragraphs = [
            line.strip().lower().split(" . ")
            for line in (f"{line}\n" for line in text.split("\n"))
            if len(line.split(" . ")) >= 2
        ]
        data = d2l._WikiTextDataset(paragraphs, MAX_LENGTH)
        loader = torch.utils.data.DataLoader(data, BATCH_SIZE, shuffle=True, num_workers=0)
        batches: Iterator[Any] = iter(loader)
        first = next(batches)
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
    batches = itertools.chain([first], batches)

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
    return _transformers(corpus, nullcontext)


def transformers_bfloat16(corpus: str) -> Step:
    """The same, its forward pass under autocast."""
    return _transformers(corpus, lambda: torch.autocast("cpu", torch.bfloat16))


def _transformers(corpus: str, context: Callable[[], AbstractContextManager[Any]]) -> Step:
    from benchmarks.transformers_loop import padded, textbook_model
    from bertsmith.config import resolve

    config = resolve(overrides={"corpus": (corpus,), **SAME_WORK})
    prepared = prepare_anew(config)
    model = textbook_model(
        prepared.tokenizer.vocab_size, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    number = 0

    def step() -> tuple[int, int]:
        nonlocal number
        batch = prepared.batches.batch(number)
        number += 1
        with context():
            found = model(**padded(batch))
        found.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return batch.num_sequences, batch.num_tokens

    return step


def measure(side: str, corpus: str, steps: int, process_began: float) -> dict[str, float]:
    """Prepare a side, make `steps` steps, and time all but the first.

    Args:
        process_began: seconds since the epoch when the process was started.
    """
    from bertsmith.hardware.rate import matrix_product_rate

    name, *arguments = side.split(":")
    step: Step = globals()[name](corpus, *arguments)
    counts = [step()]
    ready = time.perf_counter()
    tally.batch_seconds = tally.flops = tally.skipped_flops = 0
    counts += [step() for _ in range(steps - 1)]
    seconds = time.perf_counter() - ready
    whole = time.time() - process_began
    pairs, tokens = np.array(counts[1:]).sum(0).tolist()
    figures = {
        "pairs_per_second": pairs / seconds,
        "tokens_per_second": tokens / seconds,
        "whole_tokens_per_second": sum(tokens for _, tokens in counts) / whole,
        "whole_seconds": whole,
        "data_seconds": tally.data_seconds,
        "data_gigabytes": tally.data_gigabytes,
        "peak_gigabytes": peak_gigabytes(),
    }
    if name in ("preset", *OWN):
        dtype = torch.bfloat16 if side.endswith("bfloat16") else torch.float32
        rate = matrix_product_rate(torch.device("cpu"), dtype)
        figures["batch_share"] = tally.batch_seconds / seconds
        figures["matrix_flops_per_second"] = rate
        figures["share_of_peak"] = tally.flops / seconds / rate
        figures["skipped_share"] = tally.skipped_flops / tally.flops
    return figures


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
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
