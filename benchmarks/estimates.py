"""What `bertsmith estimate` says of this machine, beside what a run then takes.

    python -m benchmarks.estimates

Made-up text whose sequences are all full, as `estimate` takes them to be. An estimate and a run
take turns, each a process of its own; compared are the memory at most and the time of a step.
Writes benchmarks/results/estimates.md.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import figures_of, processor, spread, versions

RESULTS = Path(__file__).parent / "results"
SHAPES = {
    "mini": "--preset mini --max-length 128 --batch-size 64",
    "small": "--preset small --max-length 128 --batch-size 32",
}
WORDS, SENTENCES = 8000, 4000


def main() -> None:
    """Take turns, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    found: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {name: [] for name in SHAPES}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        write_text(text)
        for turn in range(options.turns):
            for name, shape in SHAPES.items():
                pair = one_turn(shape, options.steps, text, Path(folder, f"{name}-{turn}"))
                found[name].append(pair)
                print(f"turn {turn + 1}: {name}: {ratios([pair])}", flush=True)
    report = "\n".join(table(found, options.turns, options.steps))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "estimates.md").write_text(report, encoding="utf-8")
    print(report)


def write_text(path: Path) -> None:
    """Sentences that are longer than any sequence."""
    draw = random.Random(0)
    words = [f"w{number}" for number in range(WORDS)]
    lines = [" ".join(draw.choices(words, k=200)) + " ." for _ in range(SENTENCES)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def one_turn(
    shape: str, steps: int, text: Path, folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was estimated and what was measured."""
    common = [*shape.split(), "--objective", "mlm", "--tokenizer", "word", "--device", "cpu"]
    common += ["--steps", str(steps)]
    corpus = ["--corpus", str(text), "--output", str(folder), "--validation-pairs", "32"]
    measured = figures_of("bertsmith", "pretrain", *corpus, *common, "--quiet", "--json")
    vocabulary = ["--vocab-size", str(measured["vocabulary_entries"])]
    return figures_of("bertsmith", "estimate", *common, *vocabulary, "--json"), measured


def ratios(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, list[float]]:
    """Estimated over measured."""
    return {
        "memory": [said["memory"]["total"] / got["peak_memory_bytes"] for said, got in pairs],
        "time of a token": [
            got["tokens_per_second"] / said["tokens_per_second"] for said, got in pairs
        ],
        "parameters": [said["parameters"] / got["parameters"] for said, got in pairs],
        "tokens": [said["tokens"] / got["tokens"] for said, got in pairs],
    }


def table(
    found: Mapping[str, Sequence[tuple[dict[str, Any], dict[str, Any]]]], turns: int, steps: int
) -> list[str]:
    """The result as Markdown."""
    lines = [
        "# Estimates",
        "",
        f"`python -m benchmarks.estimates --turns {turns} --steps {steps}` — what `bertsmith "
        "estimate` says, over what a run of it then takes; made-up text, all sequences full; an "
        f"estimate and a run in turns, medians of {turns} (lowest to highest).",
        "",
        f"{processor()}; {versions()}.",
        "",
        "| | measured memory | estimated / measured | measured tokens/s "
        "| time of a token: estimated / measured | parameters | tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, pairs in found.items():
        ratio = ratios(pairs)
        memory = spread([got["peak_memory_bytes"] / 1e9 for _, got in pairs], "{:.2f}")
        rate = spread([got["tokens_per_second"] for _, got in pairs], "{:,.0f}")
        cells = [spread(values, "{:.2f}") for values in ratio.values()]
        lines.append(
            f"| `{SHAPES[name]}` | {memory} GB | {cells[0]} | {rate} | {' | '.join(cells[1:])} |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    main()
