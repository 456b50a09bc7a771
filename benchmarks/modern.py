"""Training a ModernBERT on a CPU beside `transformers`, and how both grow with the length.

    make bench                       (installs the peer)
    python -m benchmarks.modern --corpus wikitext-2 --varied medquad/train.jsonl.gz

Both train the preset `modern-mini` with AdamW on the same batches: documents cut into segments of
at most so many tokens, some 8,192 tokens a step. `--corpus` has long documents, so that nearly all
segments are full: how both grow with the length. `--varied` is a table with texts of many lengths.
`transformers` has `ModernBertForMaskedLM`, PyTorch's attention, batches padded to their longest
sequence and its own loss. Each side has a process of its own; they take turns, and the first step
is not timed. Throughput is in real tokens: padding does not count.
Writes benchmarks/results/modern.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import column, figures_of, processor, times, versions
from benchmarks.sides import peak_gigabytes, prepare_anew
from bertsmith.data.batches import Batches

RESULTS = Path(__file__).parent / "results"
PRESET = "modern-mini"
TOKENS = 8192
"""Of a step, or so."""
LENGTHS = {64: 8, 1024: 6, 4096: 5, 8192: 4}
"""Of a segment of the long documents, in tokens, and steps of a turn."""
VARIED = (64, 1024)
"""Of a segment of the varied ones."""
SIDES = {
    "own:float32": "Bertsmith, float32",
    "theirs:float32": "`transformers.ModernBertForMaskedLM`, float32",
    "own:bfloat16": "Bertsmith, bfloat16",
    "theirs:bfloat16": "`transformers` under its autocast to bfloat16",
}
_TEXTS = {"wikitext-2": "WikiText-2", "train.jsonl.gz": "MedQuAD's answers"}
SPINS = "800"
"""GOMP_SPINCOUNT, as the command line sets it for ours."""


def main() -> None:
    """Run all sides in turn and write the tables."""
    if len(sys.argv) == 6 and sys.argv[1] in SIDES:
        print(json.dumps(measure(*sys.argv[1:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--corpus", default="wikitext-2", help="of long documents")
    parser.add_argument("--varied", help="a table with documents of many lengths")
    parser.add_argument("--text-column", default="answer", help="of the table")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side")
    parser.add_argument("--lengths", nargs="*", type=int, default=list(LENGTHS))
    options = parser.parse_args()
    cases = [(options.corpus, "text", length) for length in options.lengths]
    if options.varied:
        cases += [(options.varied, options.text_column, length) for length in VARIED]
    rounds: dict[tuple[str, str, int], dict[str, list[dict[str, float]]]] = {
        case: {side: [] for side in SIDES} for case in cases
    }
    for turn in range(options.rounds):
        for (corpus, text_column, length), sides in rounds.items():
            for side, found in sides.items():
                variables = {"GOMP_SPINCOUNT": SPINS} if side.startswith("own") else {}
                arguments = (side, corpus, text_column, str(length), str(LENGTHS[length]))
                found.append(figures_of("benchmarks.modern", *arguments, **variables))
                print(
                    f"round {turn + 1}  {Path(corpus).name} {length:5} {side:16} "
                    f"{found[-1]['tokens_per_second']:9.0f} tokens/s  "
                    f"{found[-1]['peak_gigabytes']:.2f} GB",
                    flush=True,
                )
    text = report(rounds)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "modern.md").write_text(text, encoding="utf-8")
    print(text)


def report(rounds: dict[tuple[str, str, int], dict[str, list[dict[str, float]]]]) -> str:
    """One table for each text and length, as Markdown."""
    lines = [
        "# Training a ModernBERT on a CPU",
        "",
        f"`python -m benchmarks.modern` — preset `{PRESET}`, AdamW, 30 % masks, some {TOKENS:,} "
        "tokens a step, the same batches for all sides. Median of all turns (lowest to highest); "
        "the sides take turns, each in a process of its own. Tokens are real ones; padding does "
        "not count.",
        "",
        f"{processor()}; {versions()}.",
        "",
    ]
    for (corpus, _, length), sides in rounds.items():
        mean = sides["own:float32"][0]["mean_length"]
        lines += [
            f"{_TEXTS.get(Path(corpus).name, Path(corpus).name)}, segments of at most {length:,} "
            f"tokens ({mean:.0f} in the mean):",
            "",
            "| side | real tokens/s | Bertsmith in float32 is | peak memory |",
            "|---|---|---|---|",
            *(
                f"| {SIDES[side]} | {column(found, 'tokens_per_second', '{:,.0f}')} "
                f"| {times(sides, 'own:float32', side, 'tokens_per_second')} "
                f"| {column(found, 'peak_gigabytes', '{:.2f}')} GB |"
                for side, found in sides.items()
            ),
            "",
        ]
    return "\n".join(lines)


def measure(side: str, corpus: str, text_column: str, length: str, steps: str) -> dict[str, float]:
    """Make so many steps of a side, and time all but the first."""
    from bertsmith.config import resolve

    who, precision = side.split(":")
    settings: dict[str, Any] = {
        "corpus": (corpus,),
        "text_column": text_column,
        "device": "cpu",
        "precision": precision,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "mlm_probability": 0.3,
        "max_length": int(length),
        "batch_size": 1,
    }
    config = resolve(preset=PRESET, overrides=settings)
    prepared = prepare_anew(config)
    made = prepared.batches
    assert isinstance(made, Batches)  # of one length
    made.batch_size = max(1, round(TOKENS / mean_length(made)))
    step = (_own if who == "own" else _theirs)(config, prepared)
    step(0)
    tokens = sequences = 0
    began = time.perf_counter()
    for number in range(1, int(steps)):
        batch = step(number)
        tokens, sequences = tokens + batch.num_tokens, sequences + batch.num_sequences
    seconds = time.perf_counter() - began
    return {
        "tokens_per_second": tokens / seconds,
        "mean_length": tokens / sequences,
        "peak_gigabytes": peak_gigabytes(),
    }


def mean_length(batches: Any) -> float:
    """Of the first 200 segments, in tokens."""
    first = np.arange(min(200, batches.num_examples))
    return float(batches.examples(first).num_tokens / len(first))


def _own(config: Any, prepared: Any) -> Any:
    from bertsmith.architectures import build
    from bertsmith.hardware.device import keep_freed_memory, usual_micro_batch
    from bertsmith.objectives import objective_of
    from bertsmith.ranks import ALONE
    from bertsmith.training.engine import EagerEngine
    from bertsmith.training.parallel import Parallel

    objective, device = objective_of(config.data.objective), torch.device("cpu")
    model = build(config.model, prepared.tokenizer.vocab_size, objective.heads)
    model.initialize(0)
    model.train()
    keep_freed_memory()
    engine = EagerEngine(
        Parallel(model, objective, ALONE, "ddp", device),
        config.training,
        prepared.batches,
        device,
        micro_batch=usual_micro_batch(device, config.model),
    )

    def step(number: int) -> Any:
        batch = engine.make(number)
        engine.step(batch, dropout_key=number)
        return batch

    return step


def _theirs(config: Any, prepared: Any) -> Any:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    from bertsmith.architectures import architecture_of

    ids = {f"{name}_token_id": prepared.tokenizer.pad_id for name in ("pad", "cls", "sep")}
    shape = architecture_of("modernbert").write_config(config.model)
    model = ModernBertForMaskedLM(
        ModernBertConfig(**shape, **ids, vocab_size=prepared.tokenizer.vocab_size)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    context: AbstractContextManager[Any] = nullcontext()
    if config.training.precision == "bfloat16":
        context = torch.autocast("cpu", torch.bfloat16)

    def step(number: int) -> Any:
        batch = prepared.batches.batch(number)
        with context:
            loss = model(**padded(batch)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return batch

    return step


def padded(batch: Any) -> dict[str, torch.Tensor]:
    """A batch as `transformers` takes it, padded to its longest sequence."""
    from bertsmith.nn.layout import Layout

    layout = Layout(batch.lengths, batch.cu_seqlens)
    labels = torch.full_like(batch.input_ids, -100)
    labels[batch.masked_positions] = batch.masked_labels
    mask = torch.arange(layout.max_length)[None] < torch.tensor(batch.lengths)[:, None]
    grid = torch.full(mask.shape, -100)
    grid[mask] = labels
    return {
        "input_ids": layout.pad(batch.input_ids[:, None]).squeeze(2),
        "attention_mask": mask.long(),
        "labels": grid,
    }


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


if __name__ == "__main__":
    main()
