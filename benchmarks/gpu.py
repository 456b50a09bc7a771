"""Training throughput on a CUDA GPU beside `transformers`: `python -m benchmarks.gpu`.

Cases: `base` at length 512 and 128, `large` at 512, `tiny` and `textbook` at theirs; bfloat16. Our
side is the library's own step: unpadded, variable-length flash attention, batches made by a thread
while it runs. Beside it `transformers.BertForPreTraining` of the same size and vocabulary (SDPA,
compiled, padded to the length, its own loss, its batches made beforehand), and at 512 its
ModernBERT-base, a newer encoder of about `base`'s size. All see the same pairs of the same text;
tokens are real ones, padding does not count. Sides take turns, each in a process of its own.

    python -m benchmarks.gpu --corpus shared/data/wikitext-2 --rounds 3
    python -m benchmarks.gpu --cases textbook --device cpu --steps 2 --batch-size 32

The second tries the script itself where there is no GPU.

Writes benchmarks/results/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import column, figures_of, times, versions
from benchmarks.sides import SAME_WORK
from bertsmith.config import PretrainConfig, resolve
from bertsmith.data.ahead import BatchesAhead
from bertsmith.data.batches import Batch
from bertsmith.display import Display
from bertsmith.model.bert import Bert
from bertsmith.model.device import (
    autocast,
    compute_dtype,
    describe_device,
    usual_micro_batch,
    wait_for,
)
from bertsmith.model.flops import matrix_product_rate, training_flops
from bertsmith.model.layout import Layout
from bertsmith.ranks import ALONE
from bertsmith.training.optimizer import make_optimizers
from bertsmith.training.parallel import Parallel
from bertsmith.training.prepare import Prepared, prepare
from bertsmith.training.step import train_step

RESULTS = Path(__file__).parent / "results"
CASES: dict[str, dict[str, Any]] = {
    "base-512": {"preset": "base", "max_length": 512, "batch_size": 128},
    "base-128": {"preset": "base", "max_length": 128, "batch_size": 512},
    "large-512": {"preset": "large", "max_length": 512, "batch_size": 64},
    "tiny": {"preset": "tiny", "max_length": 128, "batch_size": 1024},
    "textbook": {"preset": "textbook", "max_length": 64, "batch_size": 2048},
}
SIDES = {
    "bertsmith": "Bertsmith",
    "transformers": "`transformers.BertForPreTraining` (SDPA, compiled, padded)",
    "modernbert": "`transformers` ModernBERT-base (for comparison of size)",
}
Step = Callable[[int], Batch]


def bertsmith(config: PretrainConfig, prepared: Prepared, device: torch.device, _: int) -> Step:
    """The library's own step."""
    model = Bert(config.model, prepared.tokenizer.vocab_size)
    model.initialize(0)
    model.to(device).train()
    optimizers = make_optimizers(model, config.training)
    parallel = Parallel(model, ALONE, "ddp", device)
    size = usual_micro_batch(device, config.model)
    source = BatchesAhead(prepared.batches, pin_memory=device.type == "cuda")

    def step(number: int) -> Batch:
        batch = source.batch(number)
        train_step(
            parallel,
            optimizers,
            batch,
            micro_batch=size,
            max_grad_norm=config.training.max_grad_norm,
            dropout_key=number,
            device=device,
            autocast=lambda: autocast(device, "auto"),
        )
        return batch

    return step


def transformers(
    config: PretrainConfig, prepared: Prepared, device: torch.device, steps: int
) -> Step:
    """`BertForPreTraining`, with the dropout that our side has."""
    from transformers import BertConfig, BertForPreTraining

    shape: dict[str, Any] = {
        name: getattr(config.model, name)
        for name in (
            "hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
            "hidden_dropout_prob attention_probs_dropout_prob max_position_embeddings"
        ).split()
    }
    shape.update(vocab_size=prepared.tokenizer.vocab_size, attn_implementation="sdpa")
    model = BertForPreTraining(BertConfig(**shape))
    return _padded(model, config, prepared, device, steps, pairs=True)


def modernbert(
    config: PretrainConfig, prepared: Prepared, device: torch.device, steps: int
) -> Step:
    """`ModernBertForMaskedLM` of its published size, on the same ids."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    kernel: dict[str, Any] = {"attn_implementation": "sdpa"}
    model = ModernBertForMaskedLM(ModernBertConfig(**kernel))
    return _padded(model, config, prepared, device, steps, pairs=False)


def _padded(
    model: Any,
    config: PretrainConfig,
    prepared: Prepared,
    device: torch.device,
    steps: int,
    *,
    pairs: bool,
) -> Step:
    """Batches padded to the full length, made before the clock runs; a compiled model."""
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model) if device.type == "cuda" else model
    size = usual_micro_batch(device, config.model)
    batches = [prepared.batches.batch(number) for number in range(steps)]
    inputs = [
        [_pad(part, config.data.max_length, pairs) for part in batch.split(size)]
        for batch in batches
    ]

    def step(number: int) -> Batch:
        parts = inputs[number]
        for part in parts:
            moved = {name: value.to(device, non_blocking=True) for name, value in part.items()}
            with autocast(device, "auto"):
                loss = forward(**moved).loss
            (loss / len(parts)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return batches[number]

    return step


def _pad(batch: Batch, length: int, pairs: bool) -> dict[str, torch.Tensor]:
    layout = Layout.of((*batch.lengths, length), torch.device("cpu"))  # one row more sets the width
    filler = torch.zeros(length, dtype=torch.long)

    def pad(packed: torch.Tensor) -> torch.Tensor:
        return layout.pad(torch.cat([packed, filler])[:, None]).squeeze(2)[:-1].contiguous()

    labels = torch.full_like(batch.input_ids, -100)
    labels[batch.masked_positions] = batch.masked_labels
    mask = pad(torch.ones_like(batch.input_ids))
    found = {
        "input_ids": pad(batch.input_ids),
        "attention_mask": mask,
        "labels": pad(labels).masked_fill(mask == 0, -100),
    }
    if pairs:
        found["token_type_ids"] = pad(batch.token_type_ids)
        found["next_sentence_label"] = batch.next_sentence_labels
    return {k: v.pin_memory() for k, v in found.items()} if torch.cuda.is_available() else found


def measure(side: str, case: str, options: argparse.Namespace) -> dict[str, Any]:
    """One turn of one side: a few steps to warm up, then `steps` by the clock."""
    batch_size = options.batch_size or CASES[case]["batch_size"]
    device, steps = torch.device(options.device), options.steps
    config = resolve(
        preset=CASES[case]["preset"],
        overrides={
            "corpus": (options.corpus,),
            "max_length": CASES[case]["max_length"],
            "batch_size": batch_size,
            **SAME_WORK,
        },
    )
    prepared = prepare(
        config.preparation, config.data, batch_size=batch_size, seed=0, display=Display(quiet=True)
    )
    warm_up = 3
    step: Step = globals()[side](config, prepared, device, warm_up + steps)
    for number in range(warm_up):
        step(number)
    wait_for(device)
    began = time.perf_counter()
    batches = [step(number) for number in range(warm_up, warm_up + steps)]
    wait_for(device)
    seconds = time.perf_counter() - began
    flops = sum(
        training_flops(config.model, prepared.tokenizer.vocab_size, batch) for batch in batches
    )
    peak = matrix_product_rate(device, compute_dtype(device, "auto"))
    tokens = sum(batch.num_tokens for batch in batches)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {
        "device": describe_device(device),
        "batch_size": batch_size,
        "sequences_per_second": batch_size * steps / seconds,
        "tokens_per_second": tokens / seconds,
        "mean_length": tokens / batch_size / steps,
        "share_of_peak": flops / seconds / peak,
        "peak_flops_per_second": peak,
        "memory_gigabytes": memory / 1e9,
        "vocabulary_entries": prepared.tokenizer.vocab_size,
    }


def main() -> None:
    """Run all sides of all cases in turn and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", default="wikitext-2", help="a name or a path")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side")
    parser.add_argument("--steps", type=int, default=20, help="timed steps a turn")
    parser.add_argument("--batch-size", type=int, help="sequences a step instead of the case's")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "There must be a CUDA GPU; there is none. (--device cpu tries the script.)"
        )
    if options.one:
        side, case = options.sides[0], options.cases[0]
        print(json.dumps(measure(side, case, options)))
        return
    lines = [
        "# Training on a GPU",
        "",
        f"`python -m benchmarks.gpu` — bfloat16, {options.steps} steps a turn, median of "
        f"{options.rounds} turns (lowest to highest); the sides take turns. Tokens are real ones. "
        "The share of peak is the model's products over real tokens by the rate of a large "
        "bfloat16 matrix product measured in the same process.",
        "",
        f"{versions()}.",
        "",
    ]
    for case in options.cases:
        sides = [s for s in options.sides if s != "modernbert" or case == "base-512"]
        rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side in sides:
                rounds[side].append(_in_a_process(side, case, options))
                print(case, side, rounds[side][-1], flush=True)
        lines += _table(case, rounds)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _in_a_process(side: str, case: str, options: argparse.Namespace) -> dict[str, Any]:
    return figures_of(
        *("benchmarks.gpu", "--one", "--sides", side, "--cases", case),
        *("--corpus", options.corpus, "--steps", str(options.steps), "--device", options.device),
        *(("--batch-size", str(options.batch_size)) if options.batch_size else ()),
    )


def _table(case: str, rounds: dict[str, list[dict[str, Any]]]) -> list[str]:
    some = next(iter(rounds.values()))[0]
    return [
        f"## {case}",
        "",
        f"{some['device']}; {some['vocabulary_entries']:,} entries, mean length "
        f"{some['mean_length']:.0f} of at most {CASES[case]['max_length']}, "
        f"{some['batch_size']} sequences a step.",
        "",
        "| side | sequences/s | real tokens/s | Bertsmith is | share of peak | memory |",
        "|---|---|---|---|---|---|",
        *(
            f"| {SIDES[side]} | {column(found, 'sequences_per_second', '{:,.0f}')} "
            f"| {column(found, 'tokens_per_second', '{:,.0f}')} "
            f"| {times(rounds, 'bertsmith', side, 'tokens_per_second')} "
            f"| {_share(side, found)} "
            f"| {column(found, 'memory_gigabytes', '{:.1f}')} GB |"
            for side, found in rounds.items()
        ),
        "",
    ]


def _share(side: str, found: list[dict[str, Any]]) -> str:
    """Of the case's model; another model's products are not counted here."""
    return "—" if side == "modernbert" else f"{column(found, 'share_of_peak', '{:.0f}', 100)} %"


if __name__ == "__main__":
    main()
