"""Training throughput on a CPU beside the textbook's own code and `transformers`.

    make bench                       (installs the peers, then runs this)
    python -m benchmarks.cpu --corpus wikitext-2 --rounds 3

The first sides train the textbook model (2 layers, hidden 128, vocabulary 20,256, length 64, 512
pairs a step) on WikiText-2: Bertsmith in float32 and in bfloat16, the textbook's own code, and
`transformers` in both. Then presets train with their own recipes, in both precisions. Each side has
a process of its own; they take turns. A side is timed twice by the wall clock: over its steps, with
the making of batches in them and the first one left out; and as a whole run, from the start of its
process, libraries and data set included. Throughput is in real tokens: padding does not count.
Writes benchmarks/results/cpu.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks import sides
from benchmarks.report import column, figures_of, processor, times, versions

RESULTS = Path(__file__).parent / "results"
SPINS = "800"
"""GOMP_SPINCOUNT, as the command line sets it."""


def main() -> None:
    """Run all sides in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--corpus", default="wikitext-2", help="a name or a WikiText folder")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side")
    parser.add_argument("--steps", type=int, default=50, help="steps a turn; the chapter makes 50")
    parser.add_argument(
        "--transformers-steps", type=int, default=5, help="steps a turn of the slowest side"
    )
    parser.add_argument("--sides", nargs="*", default=list(sides.SIDES), choices=list(sides.SIDES))
    parser.add_argument(
        "--presets", nargs="*", default=list(sides.PRESETS), choices=list(sides.PRESETS)
    )
    options = parser.parse_args()
    steps_of = {
        side: options.transformers_steps if side.startswith("transformers") else options.steps
        for side in options.sides
    }
    for name in options.presets:
        for precision in ("float32", "bfloat16"):
            steps_of[f"preset:{name}:{precision}"] = sides.PRESETS[name]
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in steps_of}
    for turn in range(options.rounds):
        for side, steps in steps_of.items():
            if turn and ":base:" in side:  # whose steps take a minute
                continue
            figures = run_side(side, options.corpus, steps)
            rounds[side].append(figures)
            print(
                f"round {turn + 1}  {side:25} {figures['pairs_per_second']:7.1f} pairs/s  "
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
    # Ours as the command line trains.
    is_own = side.partition(":")[0] in ("preset", *sides.OWN)
    variables = {"GOMP_SPINCOUNT": SPINS} if is_own else {}
    return figures_of("benchmarks.sides", side, corpus, str(steps), str(time.time()), **variables)


def report(rounds: dict[str, list[dict[str, float]]], steps: int, slow_steps: int) -> str:
    """The tables as Markdown, with the machine, the versions and the spread."""
    peers = {side: found for side, found in rounds.items() if ":" not in side}
    lines = [
        "# Training on a CPU",
        "",
        "`python -m benchmarks.cpu` — textbook model, WikiText-2, 512 pairs a step, 15 % masks, "
        "AdamW. Median of all turns (lowest to highest); the sides take turns. A turn is "
        f"{steps} steps ({slow_steps} of `transformers`), each side in a process of its own. "
        "Tokens are real ones; padding does not count.",
        "",
        f"{processor()}; {versions()}.",
        "",
        *(_steps_table(peers) if peers else []),
        *(_runs_table(peers, steps) if peers else []),
        *_presets_table(rounds),
        *_shares(rounds),
    ]
    return "\n".join(lines)


def _steps_table(rounds: dict[str, list[dict[str, float]]]) -> list[str]:
    return [
        "Steps, with the making of batches in them, without the first one:",
        "",
        "| side | pairs/s | real tokens/s | float32 is | bfloat16 is | peak memory |",
        "|---|---|---|---|---|---|",
        *(
            f"| {sides.SIDES[side]} | {column(found, 'pairs_per_second', '{:.0f}')} "
            f"| {column(found, 'tokens_per_second', '{:,.0f}')} "
            f"| {times(rounds, 'bertsmith', side, 'tokens_per_second')} "
            f"| {times(rounds, 'bertsmith_bfloat16', side, 'tokens_per_second')} "
            f"| {column(found, 'peak_gigabytes', '{:.2f}')} GB |"
            for side, found in rounds.items()
        ),
        "",
    ]


def _runs_table(rounds: dict[str, list[dict[str, float]]], steps: int) -> list[str]:
    return [
        f"Whole runs of {steps} steps, from the start of the process, libraries and data included; "
        "and in them the part from raw text to the first batch, libraries apart:",
        "",
        "| side | seconds | real tokens/s | float32 is | data, seconds | data, memory |",
        "|---|---|---|---|---|---|",
        *(
            f"| {sides.SIDES[side]} | {column(found, 'whole_seconds', '{:.1f}')} "
            f"| {column(found, 'whole_tokens_per_second', '{:,.0f}')} "
            f"| {times(rounds, 'bertsmith', side, 'whole_tokens_per_second')} "
            f"| {column(found, 'data_seconds', '{:.1f}')} "
            f"| {column(found, 'data_gigabytes', '{:.2f}')} GB |"
            for side, found in rounds.items()
            if not side.startswith("transformers")  # no data set of its own, and fewer steps
        ),
        "",
    ]


def _presets_table(rounds: dict[str, list[dict[str, float]]]) -> list[str]:
    """Each preset with its own recipe, both precisions side by side."""
    names = [name for name in sides.PRESETS if f"preset:{name}:float32" in rounds]
    lines = [
        "Presets with their own recipes (batches, masks, optimizer) on the same text, and their "
        "peak memory:",
        "",
        "| preset | float32, pairs/s | bfloat16, pairs/s | bfloat16 is | float32 | bfloat16 |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        plain, narrow = (f"preset:{name}:{one}" for one in ("float32", "bfloat16"))
        speeds = [column(rounds[side], "pairs_per_second", "{:.1f}") for side in (plain, narrow)]
        memory = [column(rounds[side], "peak_gigabytes", "{:.2f}") for side in (plain, narrow)]
        lines.append(
            f"| {name} | {speeds[0]} | {speeds[1]} "
            f"| {times(rounds, narrow, plain, 'pairs_per_second')} "
            f"| {memory[0]} GB | {memory[1]} GB |"
        )
    return [*lines, ""] if names else []


def _shares(rounds: dict[str, list[dict[str, float]]]) -> list[str]:
    """How much of the matrix-product bound each of our sides reaches."""
    lines = [
        "Share of the matrix-product bound: the model's products over real tokens, forward and "
        "backward, the vocabulary at masked positions only, beside the rate of a large product in "
        "the same process. Not made are those of the last layer at tokens that no head reads.",
        "",
        "| side | share of the bound | large product, GFLOP/s | not made | making of batches |",
        "|---|---|---|---|---|",
    ]
    for side, found in rounds.items():
        if "share_of_peak" in found[0]:
            lines.append(
                f"| {sides.SIDES.get(side, side)} "
                f"| {column(found, 'share_of_peak', '{:.0f}', 100)} % "
                f"| {column(found, 'matrix_flops_per_second', '{:.0f}', 1e-9)} "
                f"| {column(found, 'skipped_share', '{:.0f}', 100)} % "
                f"| {column(found, 'batch_share', '{:.2f}', 100)} % |"
            )
    return [*lines, ""]


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


if __name__ == "__main__":
    main()
