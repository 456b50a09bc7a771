"""What a command loses where another one runs on the same cores, by how long threads spin.

    python -m benchmarks.busy --corpus wikitext-2

Each command alone, and two of it at once, which should each take twice as long: what both do
together is given as a share of what one alone does. The settings of GNU's OpenMP take turns:
that of PyTorch (the command line's own is taken back), that of the command line, and
OMP_WAIT_POLICY=PASSIVE, which never spins. Training is timed by its steps, the other commands from
their start to their end. Writes benchmarks/results/busy.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import processor, spread, versions

RESULTS = Path(__file__).parent / "results"
SPINS_OF_GNU = "300000"  # its documented default where there are no more threads than cores
SETTINGS: dict[str, dict[str, str]] = {
    "PyTorch's": {"GOMP_SPINCOUNT": SPINS_OF_GNU},
    "the command line's": {},
    "never (PASSIVE)": {"OMP_WAIT_POLICY": "PASSIVE"},
}
WORDS = "the a film bird crane river lifts falls old new good bad and of in".split()


def main() -> None:
    """Measure all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="wikitext-2", help="a name or a path")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every setting")
    parser.add_argument("--steps", type=int, default=100, help="of a training")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        commands = prepare(work, options)
        found: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for name, command in commands.items():
            turns = found[name] = {setting: [] for setting in SETTINGS}
            for _ in range(options.rounds if name == "pretrain" else 1):
                for setting, variables in SETTINGS.items():
                    (alone,) = rates(command, variables, work, 1)
                    both = sum(rates(command, variables, work, 2))
                    turns[setting].append((alone, both))
                    print(name, setting, f"{alone:.3f} {both:.3f}", flush=True)
    text = report(found, options)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "busy.md").write_text(text, encoding="utf-8")
    print(text)


def prepare(work: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """A model and tables; the commands, in which OUTPUT is a fresh path."""
    train = ["pretrain", "--corpus", options.corpus, "--validation-pairs", "64", "--json"]
    train += ["--steps", str(options.steps), "--output", "OUTPUT", "--quiet"]
    run([word.replace("OUTPUT", str(work / "run")) for word in train], {})
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(5, 40))) for _ in range(20_000)]
    (work / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    rows = [f"{text}\t{int('bird' in text)}" for text in texts[:3000]]
    (work / "rows.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n", encoding="utf-8")
    tables = ["--train", str(work / "rows.tsv"), "--validation", str(work / "rows.tsv")]
    return {
        "pretrain": train,
        "evaluate": ["evaluate", str(work / "run")],
        "encode": [
            *("encode", str(work / "run"), "--input", str(work / "texts.txt")),
            *("--pooling", "mean", "--output", "OUTPUT.npy"),
        ],
        "finetune": [
            *("finetune", str(work / "run"), *tables, "--output", "OUTPUT"),
            *("--epochs", "2", "--no-baseline", "--quiet"),
        ],
    }


def run(arguments: list[str], variables: dict[str, str]) -> subprocess.Popen[str]:
    """A command that has ended well."""
    process = begin(arguments, variables)
    process.wait()
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed.")
    return process


def begin(arguments: list[str], variables: dict[str, str]) -> subprocess.Popen[str]:
    """A command under way."""
    inherited = {name: value for name, value in os.environ.items() if "OMP" not in name}
    return subprocess.Popen(
        [sys.executable, "-m", "bertsmith", *arguments],
        env={**inherited, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def rates(command: list[str], variables: dict[str, str], work: Path, number: int) -> list[float]:
    """How fast so many processes of a command are at once: pairs a second, or commands."""
    outputs = [work / f"output-{place}" for place in range(number)]
    began = time.perf_counter()
    processes = [
        begin([word.replace("OUTPUT", str(output)) for word in command], variables)
        for output in outputs
    ]
    found = []
    for process in processes:
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed.")
        seconds = time.perf_counter() - began
        is_training = command[0] == "pretrain"
        last = json.loads(said.splitlines()[-1]) if is_training else {}
        found.append(last["sentence_pairs_per_second"] if is_training else 1 / seconds)
    for output in outputs:
        shutil.rmtree(output, ignore_errors=True)
        output.with_name(f"{output.name}.npy").unlink(missing_ok=True)
    return found


def report(
    found: dict[str, dict[str, list[tuple[float, float]]]], options: argparse.Namespace
) -> str:
    """The table."""
    lines = [
        "# Two commands on the same cores",
        "",
        f"`python -m benchmarks.busy` — {Path(options.corpus).name}, the textbook's model, "
        f"{options.steps} steps, {options.rounds} turns of training and one of the others: "
        "median (lowest to highest). Alone: pairs a second of training; of the others the "
        "seconds from start to end, imports among them. Two at once: what both do together, of "
        "what one alone does.",
        "",
        f"{processor()}; {versions()}.",
        "",
        "| command | threads spin | alone | two at once |",
        "|---|---|---|---|",
    ]
    for name, turns in found.items():
        for setting, pairs in turns.items():
            alone = [one if name == "pretrain" else 1 / one for one, _ in pairs]
            form = "{:.0f} pairs/s" if name == "pretrain" else "{:.1f} s"
            shares = [100 * both / one for one, both in pairs]
            lines.append(
                f"| {name} | {setting} | {shown(alone, form)} | {shown(shares, '{:.0f} %')} |"
            )
    return "\n".join(lines) + "\n"


def shown(values: list[float], form: str) -> str:
    """All turns, or the only one."""
    return spread(values, form) if len(values) > 1 else form.format(values[0])


if __name__ == "__main__":
    main()
