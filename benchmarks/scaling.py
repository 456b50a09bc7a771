"""What several processes gain, and what they say to each other.

    python -m benchmarks.scaling --corpus wikitext-2

Each process has one thread. Strong scaling: one and two processes have the same batch of 256 pairs;
weak scaling: two have twice the batch. The sides alternate; figures are real tokens a second, the
making of batches and the sums over the ranks in them. What is sent a step is computed. Writes
benchmarks/results/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import processor, spread, versions
from bertsmith.config import resolve
from bertsmith.objectives import objective_of
from bertsmith.training.estimate import sent_bytes
from bertsmith.training.memory import bytes_of_parameters, empty_model

RESULTS = Path(__file__).parent / "results"
PAIRS = 256
RANKS = (2, 4, 8, 16, 64)


@dataclass(frozen=True)
class Side:
    """One way to run."""

    name: str
    processes: int
    batch_size: int
    parallel: str = "ddp"
    threads: int = 1


SIDES = (
    Side("1 process", 1, PAIRS),
    Side("2 processes, DDP: strong", 2, PAIRS),
    Side("2 processes, FSDP: strong", 2, PAIRS, "fsdp"),
    Side("2 processes, DDP: weak", 2, 2 * PAIRS),
    Side("2 processes, FSDP: weak", 2, 2 * PAIRS, "fsdp"),
    Side("1 process, two threads", 1, PAIRS, threads=2),
)


def main() -> None:
    """Run all sides in turns, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="wikitext-2", help="a name or a path")
    parser.add_argument("--presets", nargs="+", default=["textbook", "mini"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for turn in range(options.turns):
        for preset in options.presets:
            for side in SIDES:
                figures = run(side, preset, options.corpus, options.steps)
                found.setdefault((preset, side.name), []).append(figures)
                rate = figures["tokens_per_second"]
                print(f"turn {turn + 1}: {preset}, {side.name}: {rate:,.0f} tokens/s", flush=True)
    text = report(found, options.presets, options.steps)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scaling.md").write_text(text, encoding="utf-8")
    print(text)


def run(side: Side, preset: str, corpus: str, steps: int) -> dict[str, Any]:
    """The closing figures of a short run."""
    launcher = []
    if side.processes > 1:
        launcher = ["torch.distributed.run", f"--nproc-per-node={side.processes}", "--standalone"]
        launcher += ["-m"]
    shape = f"--preset {preset} --pairing adjacent --max-length 64 --device cpu".split()
    work = f"--batch-size {side.batch_size} --steps {steps} --parallel {side.parallel}".split()
    with tempfile.TemporaryDirectory() as folder:
        place = ["--corpus", corpus, "--output", f"{folder}/run", "--validation-pairs", "64"]
        command = [sys.executable, "-m", *launcher, "bertsmith", "pretrain", *place, *shape, *work]
        done = subprocess.run(
            [*command, "--quiet", "--json"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": str(side.threads)},
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def report(
    found: dict[tuple[str, str], list[dict[str, Any]]], presets: list[str], steps: int
) -> str:
    """The tables as Markdown."""
    num_turns = len(next(iter(found.values())))
    lines = [
        "# Several processes",
        "",
        f"`python -m benchmarks.scaling --presets {' '.join(presets)} --turns {num_turns}` — "
        f"WikiText-2, pairs of at most 64 tokens, {steps} steps of {PAIRS} pairs (weak scaling: "
        f"{2 * PAIRS}); each process has one thread. Real tokens a second, the sums over the ranks "
        f"counted; medians of {num_turns} alternating turns (lowest to highest).",
        "",
        f"{processor()}; {versions()}.",
    ]
    for preset in presets:
        lines += [
            "",
            f"## {preset}",
            "",
            "| side | tokens/s | times one process | memory of a process |",
            "|---|---|---|---|",
        ]
        base = [one["tokens_per_second"] for one in found[preset, SIDES[0].name]]
        for side in SIDES:
            turns = found[preset, side.name]
            rates = [one["tokens_per_second"] for one in turns]
            ratios = [rate / first for rate, first in zip(rates, base, strict=True)]
            memory = statistics.median(one["peak_memory_bytes"] for one in turns) / 1e9
            lines.append(
                f"| {side.name} | {spread(rates, '{:,.0f}')} | {spread(ratios, '{:.2f}')} "
                f"| {memory:.2f} GB |"
            )
    lines += [
        "",
        "## What each rank sends a step",
        "",
        "Computed: float32, rings. DDP scatters sums of gradients and gathers them; FSDP gathers "
        "the weights twice, for each micro-batch, and scatters sums of gradients. The figures are "
        "for one micro-batch; they do not grow, by much, with the ranks.",
        "",
        f"| preset | weights | {' | '.join(f'{n} ranks: DDP, FSDP' for n in RANKS)} |",
        f"|---|---|{'---|' * len(RANKS)}",
    ]
    for preset in ("textbook", "small", "base", "large"):
        config = resolve(preset=preset)
        size = 20_256 if preset == "textbook" else config.preparation.vocab_size
        weights = bytes_of_parameters(empty_model(config.model, size, objective_of("mlm+nsp")))
        cells = [
            ", ".join(f"{sent_bytes(weights, n, kind) / 1e6:,.0f}" for kind in ("ddp", "fsdp"))
            for n in RANKS
        ]
        lines.append(f"| `{preset}` | {weights / 1e6:,.0f} MB | {' | '.join(cells)} MB |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
