"""Training throughput on a CPU beside the textbook's own code and `transformers`.

    make bench                       (installs the peers, then runs this)
    python -m benchmarks.cpu --corpus wikitext-2 --rounds 5

All sides train the textbook model (2 layers, hidden 128, vocabulary 20,256, length 64, 512 pairs a
step, float32) on WikiText-2, each in a process of its own, taking turns. A side is timed over whole
steps by the wall clock, with the making of batches in it and the first step left out. Throughput is
in real tokens: padding does not count. Writes benchmarks/results/cpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks import sides

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run all sides in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--corpus", default="wikitext-2", help="a name or a WikiText folder")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every side")
    parser.add_argument("--steps", type=int, default=6, help="timed steps a turn")
    parser.add_argument("--sides", nargs="+", default=list(sides.SIDES), choices=list(sides.SIDES))
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in options.sides}
    for turn in range(options.rounds):
        for side in options.sides:
            figures = run_side(side, options.corpus, options.steps)
            rounds[side].append(figures)
            print(
                f"round {turn + 1}  {side:14} {figures['pairs_per_second']:7.1f} pairs/s  "
                f"{figures['tokens_per_second']:9.0f} tokens/s  "
                f"{figures['peak_gigabytes']:.2f} GB",
                flush=True,
            )
    text = report(rounds, options.steps)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cpu.md").write_text(text, encoding="utf-8")
    print(text)


def run_side(side: str, corpus: str, steps: int) -> dict[str, float]:
    """One turn of one side, in a fresh process; its figures."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sides", side, corpus, str(steps)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def report(rounds: dict[str, list[dict[str, float]]], steps: int) -> str:
    """The table as Markdown, with the machine, the versions and the spread."""
    lines = [
        "# Training on a CPU",
        "",
        "`python -m benchmarks.cpu` — textbook model, WikiText-2, 512 pairs a step, float32. "
        f"Median of {len(next(iter(rounds.values())))} turns of {steps} steps (lowest to highest); "
        "the sides take turns. Tokens are real ones; padding does not count.",
        "",
        f"{machine()}; {versions()}.",
        "",
        "| side | pairs/s | real tokens/s | Bertsmith is | first step after | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    ours = rounds.get("bertsmith", [])
    for side, turns in rounds.items():
        ratios = [
            a["tokens_per_second"] / b["tokens_per_second"]
            for a, b in zip(ours, turns, strict=False)
        ]
        ratio = f"{spread(ratios, '{:.2f}')} ×" if ratios else "—"
        lines.append(
            f"| {sides.SIDES[side]} | {spread([t['pairs_per_second'] for t in turns], '{:.0f}')} "
            f"| {spread([t['tokens_per_second'] for t in turns], '{:,.0f}')} | {ratio} "
            f"| {spread([t['seconds_to_first_step'] for t in turns], '{:.1f}')} s "
            f"| {spread([t['peak_gigabytes'] for t in turns], '{:.2f}')} GB |"
        )
    lines += bound(ours)
    return "\n".join(lines) + "\n"


def bound(ours: list[dict[str, float]]) -> list[str]:
    """How near the matrix-product bound our side is, as lines of the report."""
    if not ours:
        return []
    shares = [t["model_gigaflops_per_second"] / t["matrix_gigaflops_per_second"] for t in ours]
    rate = spread([t["matrix_gigaflops_per_second"] for t in ours], "{:.0f}")
    return [
        "",
        f"A large float32 matrix product ran at {rate} GFLOP/s in the same processes; the model's "
        "products over real tokens (forward and backward, the vocabulary at masked positions only) "
        f"took {spread([100 * share for share in shares], '{:.0f}')} % of that rate.",
        "",
        "Making a batch took "
        f"{spread([100 * t['batch_share'] for t in ours], '{:.2f}')} % of a step's time.",
    ]


def spread(values: list[float], form: str) -> str:
    """Median (lowest to highest)."""
    low, mid, high = (form.format(f(values)) for f in (min, statistics.median, max))
    return f"{mid} ({low} to {high})"


def machine() -> str:
    """The processor and its cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        rows = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = rows[0].split(":", 1)[1].strip() if rows else name
    import torch

    return f"{name}, {os.cpu_count()} cores ({torch.backends.cpu.get_cpu_capability()})"


def versions() -> str:
    """Python and the libraries that matter."""
    names = ("torch", "transformers", "d2l", "tokenizers", "numpy")
    return f"Python {platform.python_version()}, " + ", ".join(f"{n} {_version(n)}" for n in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return "not installed"


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


if __name__ == "__main__":
    main()
