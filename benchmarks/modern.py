"""Training a ModernBERT on a CPU beside `transformers`, and how both grow with the length.

    make bench                       (installs the peer)
    python -m benchmarks.modern --corpus medquad/train.jsonl.gz --text-column answer

Both train the preset `modern-mini` with AdamW on the same batches: documents cut into segments of
at most so many tokens, at most 8,192 tokens a step. `transformers` has `ModernBertForMaskedLM`,
PyTorch's attention, batches padded to their longest sequence and its own loss. Each side has a
process of its own; they take turns, and the first step is not timed. Throughput is in real tokens:
padding does not count.
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

import torch

from benchmarks.report import column, figures_of, processor, times, versions
from benchmarks.sides import peak_gigabytes, prepare_anew

RESULTS = Path(__file__).parent / "results"
PRESET = "modern-mini"
TOKENS = 8192
"""Of a step, at most."""
LENGTHS = {64: 12, 1024: 8, 4096: 5}
"""Of a segment, in tokens, and steps of a turn."""
SIDES = {
    "own:float32": "Bertsmith, float32",
    "theirs:float32": "`transformers.ModernBertForMaskedLM`, float32",
    "own:bfloat16": "Bertsmith, bfloat16",
    "theirs:bfloat16": "`transformers` under its autocast to bfloat16",
}
SPINS = "800"
"""GOMP_SPINCOUNT, as the command line sets it for ours."""


def main() -> None:
    """Run all sides in turn and write the tables."""
    if len(sys.argv) == 6 and sys.argv[1] in SIDES:
        print(json.dumps(measure(*sys.argv[1:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--corpus", default="wikitext-2", help="a name or a path")
    parser.add_argument("--text-column", default="text", help="of a table")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side")
    parser.add_argument("--lengths", type=int, nargs="*", default=list(LENGTHS))
    options = parser.parse_args()
    rounds: dict[int, dict[str, list[dict[str, float]]]] = {
        length: {side: [] for side in SIDES} for length in options.lengths
    }
    for turn in range(options.rounds):
        for length, sides in rounds.items():
            for side, found in sides.items():
                variables = {"GOMP_SPINCOUNT": SPINS} if side.startswith("own") else {}
                steps = str(LENGTHS.get(length, 5))
                arguments = (side, options.corpus, options.text_column, str(length), steps)
                found.append(figures_of("benchmarks.modern", *arguments, **variables))
                print(
                    f"round {turn + 1}  {length:5} {side:16} "
                    f"{found[-1]['tokens_per_second']:9.0f} tokens/s  "
                    f"{found[-1]['peak_gigabytes']:.2f} GB",
                    flush=True,
                )
    text = report(rounds)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "modern.md").write_text(text, encoding="utf-8")
    print(text)


def report(rounds: dict[int, dict[str, list[dict[str, float]]]]) -> str:
    """One table for each length, as Markdown."""
    lines = [
        "# Training a ModernBERT on a CPU",
        "",
        f"`python -m benchmarks.modern` — preset `{PRESET}`, AdamW, 30 % masks, at most {TOKENS:,} "
        "tokens a step, the same batches for all sides. Median of all turns (lowest to highest); "
        "the sides take turns, each in a process of its own. Tokens are real ones; padding does "
        "not count.",
        "",
        f"{processor()}; {versions()}.",
        "",
    ]
    for length, sides in rounds.items():
        mean = sides["own:float32"][0]["mean_length"]
        lines += [
            f"Segments of at most {length:,} tokens ({mean:.0f} in the mean):",
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
        "batch_size": TOKENS // int(length),
    }
    config = resolve(preset=PRESET, overrides=settings)
    prepared = prepare_anew(config)
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
