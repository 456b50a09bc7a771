"""Training throughput on a CPU beside the textbook's own code and `transformers`.

    make bench                       (installs the peers, then runs this)
    python -m benchmarks.cpu --corpus wikitext-2 --rounds 3

All sides train the textbook model (2 layers, hidden 128, vocabulary 20,256, length 64, 512 pairs a
step, float32) on WikiText-2, each in a process of its own, taking turns. A side is timed twice by
the wall clock: over its steps, with the making of batches in them and the first one left out; and
as a whole run, from the start of its process, libraries and data set included. Throughput is in
real tokens: padding does not count. Writes benchmarks/results/cpu.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks import sides
from benchmarks.report import column, figures_of, processor, times, versions

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run all sides in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--corpus", default="wikitext-2", help="a name or a WikiText folder")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side")
    parser.add_argument("--steps", type=int, default=50, help="steps a turn; the chapter makes 50")
    parser.add_argument(
        "--transformers-steps", type=int, default=5, help="steps a turn of the slowest side"
    )
    parser.add_argument("--sides", nargs="+", default=list(sides.SIDES), choices=list(sides.SIDES))
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in options.sides}
    for turn in range(options.rounds):
        for side in options.sides:
            slow = side == "transformers"
            steps = options.transformers_steps if slow else options.steps
            figures = run_side(side, options.corpus, steps)
            rounds[side].append(figures)
            print(
                f"round {turn + 1}  {side:17} {figures['pairs_per_second']:7.1f} pairs/s  "
                f"{figures['tokens_per_second']:9.0f} tokens/s  "
                f"{figures['peak_gigabytes']:.2f} GB",
                flush=True,
            )
    text = report(rounds, options.steps, options.transformers_steps)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cpu.md").write_text(text, encoding="utf-8")
    print(text)


def run_side(side: str, corpus: str, steps: int) -> dict[str, float]:
    """One turn of one side, in a fresh process; its figures."""
    return figures_of("benchmarks.sides", side, corpus, str(steps), str(time.time()))


def report(rounds: dict[str, list[dict[str, float]]], steps: int, slow_steps: int) -> str:
    """The tables as Markdown, with the machine, the versions and the spread."""
    turns = len(next(iter(rounds.values())))
    lines = [
        "# Training on a CPU",
        "",
        "`python -m benchmarks.cpu` — textbook model, WikiText-2, 512 pairs a step, float32. "
        f"Median of {turns} turns (lowest to highest); the sides take turns. A turn is {steps} "
        f"steps ({slow_steps} of `transformers`), each side in a process of its own. Tokens are "
        "real ones; padding does not count.",
        "",
        f"{processor()}; {versions()}.",
        "",
        "Steps, with the making of batches in them, without the first one:",
        "",
        "| side | pairs/s | real tokens/s | Bertsmith is | peak memory |",
        "|---|---|---|---|---|",
        *(
            f"| {sides.SIDES[side]} | {column(found, 'pairs_per_second', '{:.0f}')} "
            f"| {column(found, 'tokens_per_second', '{:,.0f}')} "
            f"| {times(rounds, 'bertsmith', side, 'tokens_per_second')} "
            f"| {column(found, 'peak_gigabytes', '{:.2f}')} GB |"
            for side, found in rounds.items()
        ),
        "",
        f"Whole runs of {steps} steps, from the start of the process, libraries and data included; "
        "and in them the part from raw text to the first batch, libraries apart:",
        "",
        "| side | seconds | real tokens/s | Bertsmith is | data, seconds | data, memory |",
        "|---|---|---|---|---|---|",
        *(
            f"| {sides.SIDES[side]} | {column(found, 'whole_seconds', '{:.1f}')} "
            f"| {column(found, 'whole_tokens_per_second', '{:,.0f}')} "
            f"| {times(rounds, 'bertsmith', side, 'whole_tokens_per_second')} "
            f"| {column(found, 'data_seconds', '{:.1f}')} "
            f"| {column(found, 'data_gigabytes', '{:.2f}')} GB |"
            for side, found in rounds.items()
            if side != "transformers"  # it has no data set of its own, and fewer steps
        ),
        "",
    ]
    for side, found in rounds.items():
        if "share_of_peak" in found[0]:
            rates = column(found, "matrix_flops_per_second", "{:.0f}", 1e-9)
            lines += [
                f"{sides.SIDES[side]}: {column(found, 'share_of_peak', '{:.0f}', 100)} % of the "
                f"matrix-product bound. (A large float32 product ran at {rates} GFLOP/s in the "
                "same processes; counted are the model's products over real tokens, forward and "
                "backward, the vocabulary at masked positions only. "
                f"{column(found, 'skipped_share', '{:.0f}', 100)} % of these are not made: those "
                "of the last layer at tokens that no head reads.) Making batches took "
                f"{column(found, 'batch_share', '{:.2f}', 100)} % of the time.",
                "",
            ]
    return "\n".join(lines)


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


if __name__ == "__main__":
    main()
