"""Contrastive steps on a CPU beside `sentence-transformers`.

    make bench                       (installs the peer)
    python -m benchmarks.contrast --pairs medquad/train.jsonl.gz

Both train the same network (`mini` from random weights, in float32) on the same pairs of question
and answer, in batches of 256 and of 32 pairs of at most 64 tokens, by cosines, a temperature of
0.05 and AdamW. The peer is `SentenceTransformer` with its MultipleNegativesRankingLoss in both
directions, in a bare loop without what its trainer adds. Each side has a process of its own; they
take turns, and the first step is not timed. Writes benchmarks/results/contrast.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import column, figures_of, processor, times, versions
from benchmarks.sides import peak_gigabytes

RESULTS = Path(__file__).parent / "results"
SIDES = {"own": "Bertsmith", "theirs": "`sentence-transformers`"}
BATCHES = {256: 4, 32: 20}
"""Pairs of a step, and steps of a turn."""
MAX_LENGTH = 64
SPINS = "800"
"""GOMP_SPINCOUNT, as the command line sets it for ours."""


def main() -> None:
    """Run both sides in turn and write the table."""
    if len(sys.argv) == 5 and sys.argv[1] in SIDES:
        print(json.dumps(measure(*sys.argv[1:])))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", required=True, help="a table of questions and answers")
    parser.add_argument("--rounds", type=int, default=5, help="turns of both sides")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(options.pairs), Path(folder))
        rounds: dict[int, dict[str, list[dict[str, float]]]] = {
            size: {side: [] for side in SIDES} for size in BATCHES
        }
        for turn in range(options.rounds):
            for size, sides in rounds.items():
                for side, found in sides.items():
                    variables = {"GOMP_SPINCOUNT": SPINS} if side == "own" else {}
                    arguments = (side, options.pairs, folder, str(size))
                    found.append(figures_of("benchmarks.contrast", *arguments, **variables))
                    rate = found[-1]["pairs_per_second"]
                    print(f"round {turn + 1}  {size:4}  {side:7} {rate:9.1f} pairs/s", flush=True)
    text = report(rounds)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "contrast.md").write_text(text, encoding="utf-8")
    print(text)


def report(rounds: dict[int, dict[str, list[dict[str, float]]]]) -> str:
    """A table for each size of batch, as Markdown."""
    lines = [
        "# Contrastive steps on a CPU",
        "",
        "`python -m benchmarks.contrast --pairs medquad/train.jsonl.gz` — preset `mini`, float32, "
        f"pairs of at most {MAX_LENGTH} tokens a text. Median of all turns (lowest to highest); "
        "the sides take turns, each in a process of its own.",
        "",
        f"{processor()}; {versions()}.",
    ]
    for size, sides in rounds.items():
        lines += [
            "",
            f"Batches of {size} pairs:",
            "",
            "| side | pairs/s | Bertsmith is | peak memory |",
            "|---|---|---|---|",
            *(
                f"| {SIDES[side]} | {column(found, 'pairs_per_second', '{:,.1f}')} "
                f"| {times(sides, 'own', side, 'pairs_per_second')} "
                f"| {column(found, 'peak_gigabytes', '{:.2f}')} GB |"
                for side, found in sides.items()
            ),
        ]
    return "\n".join([*lines, ""])


def make_model(pairs: Path, folder: Path) -> None:
    """A `mini` with random weights and a vocabulary of the answers, as a Hugging Face folder."""
    from bertsmith.architectures import build
    from bertsmith.config import resolve
    from bertsmith.preparation import prepare_store
    from bertsmith.saved.hugging_face import Snapshot
    from bertsmith.saved.sentence_transformers import Pooling, write_pooling

    texts = {"corpus": (str(pairs),), "text_column": "answer"}
    config = resolve(preset="mini", overrides=texts)
    tokenizer = prepare_store(config.preparation).tokenizer(MAX_LENGTH)
    model = build(config.model, tokenizer.vocab_size, frozenset())
    model.initialize(0)
    Snapshot.of(model, tokenizer).write(folder)
    write_pooling(folder, Pooling(), size=config.model.hidden_size, max_length=MAX_LENGTH)


def measure(side: str, pairs: str, folder: str, size: str) -> dict[str, float]:
    """Make some steps of a side, and time all but the first."""
    step = (_own if side == "own" else _theirs)(Path(pairs), Path(folder), int(size))
    step(0)
    steps = BATCHES[int(size)]
    began = time.perf_counter()
    for number in range(1, 1 + steps):
        step(number)
    seconds = time.perf_counter() - began
    return {
        "pairs_per_second": steps * int(size) / seconds,
        "peak_gigabytes": peak_gigabytes(),
    }


def _texts(pairs: Path) -> list[tuple[str, str]]:
    from bertsmith.config import LabelledConfig
    from bertsmith.finetuning.tables import read_pairs

    return [(a, b or "") for a, b in read_pairs(pairs, LabelledConfig(), None).texts]


def _own(pairs: Path, folder: Path, size: int) -> Callable[[int], None]:
    from bertsmith.architectures import build
    from bertsmith.config import TrainingConfig
    from bertsmith.finetuning.batches import RowBatches
    from bertsmith.finetuning.pairs import TableRows, drawn
    from bertsmith.finetuning.similarity import at_once
    from bertsmith.hardware.device import keep_freed_memory
    from bertsmith.objectives.contrast import Contrast
    from bertsmith.ranks import ALONE
    from bertsmith.rows import tokenize
    from bertsmith.saved.hugging_face import load_model, load_weights
    from bertsmith.training.engine import EagerEngine
    from bertsmith.training.parallel import Parallel

    device = torch.device("cpu")
    found = load_model(folder)
    model = build(found.model.config, found.model.vocab_size, frozenset())
    load_weights(folder, model)
    columns = [
        tokenize([(text, None) for text in texts], found.tokenizer)[0]
        for texts in zip(*_texts(pairs), strict=True)
    ]
    keep_freed_memory()
    rows = TableRows(columns=columns)
    batches = RowBatches(len(rows), partial(drawn, rows), batch_size=size, seed=0)
    engine = EagerEngine(
        Parallel(model.train(), Contrast(), ALONE, "ddp", device),
        TrainingConfig(optimizer="adamw", learning_rate=1e-4, precision="float32", steps=1),
        batches,
        device,
        micro_batch=at_once(device, model.config, MAX_LENGTH),
    )

    def step(number: int) -> None:
        engine.step(engine.make(number), dropout_key=number)

    return step


def _theirs(pairs: Path, folder: Path, size: int) -> Callable[[int], None]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model: Any = SentenceTransformer(str(folder), device="cpu")
    loss = MultipleNegativesRankingLoss(
        model,
        scale=20.0,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    texts = _texts(pairs)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    model.train()

    def step(number: int) -> None:
        some = [texts[i] for i in order[number * size : (number + 1) * size]]
        features = [model.tokenize(list(column)) for column in zip(*some, strict=True)]
        loss(features, None).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
