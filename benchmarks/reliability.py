"""What never losing a run costs: how long a checkpoint holds training up, how long resuming takes.

    python -m benchmarks.reliability --corpus wikitext-2

A checkpoint of each preset is written by `Checkpoints`, which copies and lets a thread write, and
beside it by `torch.save` and a flush, in turns; then its checksums are checked and it is restored.
And a run is resumed after 10 steps and after 1,000,000, with as many lines of metrics. Writes
benchmarks/results/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.report import column, processor, times, versions
from bertsmith.architectures import Encoder, build
from bertsmith.config import TrainingConfig, resolve
from bertsmith.durable import CHECKSUMS_FILE, damage, whole_folder
from bertsmith.saved.locate import checkpoint_folder
from bertsmith.tokenizer import train
from bertsmith.training.averaging import WeightAverage
from bertsmith.training.checkpoint import STATE_FILE, Checkpoints, restore
from bertsmith.training.optimizer import Optimizers, make_optimizers
from bertsmith.training.progress import Progress

RESULTS = Path(__file__).parent / "results"
PRESETS = {"textbook": 20_256, "small": 30_522, "base": 30_522}
STEPS = (10, 1_000_000)
Turns = dict[str, list[dict[str, float]]]


def main() -> None:
    """Measure both and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="wikitext-2", help="a name or a path")
    parser.add_argument("--rounds", type=int, default=3, help="turns of everything")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        saving = {
            preset: measure_saving(preset, vocabulary, Path(work), options.rounds)
            for preset, vocabulary in PRESETS.items()
        }
        resuming = measure_resuming(options.corpus, Path(work), options.rounds)
    text = report(saving, resuming, options.rounds)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "reliability.md").write_text(text, encoding="utf-8")
    print(text)


def measure_saving(preset: str, vocabulary: int, work: Path, rounds: int) -> Turns:
    """Seconds of both ways to write a checkpoint, and of checking and restoring one."""
    config = resolve(preset=preset)
    model = build(config.model, vocabulary)
    model.initialize(0)
    optimizers = make_optimizers(model, config.training)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizers.step(torch.tensor(0.0))
    optimizers.zero_grad()
    words = " ".join(f"w{number}" for number in range(64))
    tokenizer = train([[[words]]], kind="word", min_frequency=1)
    average = WeightAverage(model, TrainingConfig())
    turns: Turns = {"bertsmith": [], "torch.save": []}
    for turn in range(rounds):
        run = work / preset
        progress = Progress()
        progress.spent.step = turn + 1
        checkpoints = Checkpoints(run, keep=1, keep_every=None)
        began = time.perf_counter()
        checkpoints.save(model, optimizers, average, tokenizer, progress)
        held = time.perf_counter() - began
        checkpoints.wait()
        whole = time.perf_counter() - began
        folder = checkpoint_folder(run, turn + 1)
        checked = seconds_of(lambda folder=folder: damage(folder))  # type: ignore[misc]
        restored = seconds_of(partial(restore, folder, model, optimizers, average))
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        turns["bertsmith"].append(
            {"held": held, "whole": whole, "check": checked, "restore": restored, "megabytes": size}
        )
        shutil.rmtree(run)
        plain = seconds_of(lambda: save_plainly(model, optimizers, work / "plain.pt"))
        turns["torch.save"].append({"held": plain})
    print(
        f"{preset}: held up {[round(turn['held'], 3) for turn in turns['bertsmith']]} s", flush=True
    )
    return turns


def save_plainly(model: Encoder, optimizers: Optimizers, path: Path) -> None:
    """As other tools do it, with a flush so that it is as safe on the disk."""
    with path.open("wb") as stream:
        states = [part.state_dict() for part in optimizers.parts]
        torch.save({"model": model.state_dict(), "optimizers": states}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    path.unlink()


def seconds_of(action: Callable[[], object]) -> float:
    """Wall clock of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def measure_resuming(corpus: str, work: Path, rounds: int) -> Turns:
    """Seconds from the start of a process that resumes to its first log line, and to its end."""
    first = work / "run"
    pretrain("--corpus", corpus, "--output", str(first), "--steps", str(STEPS[0]))
    turns: Turns = {str(step): [] for step in STEPS}
    for _ in range(rounds):
        for step in STEPS:
            run = shutil.copytree(first, work / str(step))
            make_late(run, step)
            began = time.time()
            logged = pretrain("--resume", "--output", str(run), "--steps", str(step + 1))
            turns[str(step)].append({"logged": logged - began, "whole": time.time() - began})
            shutil.rmtree(run)
    return turns


def make_late(run: Path, step: int) -> None:
    """Let the run's last checkpoint be after `step` steps, with a line of metrics for each."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)[:-1]
    line = lines[0].encode()
    metrics.write_bytes("".join(lines).encode() + line * (step - STEPS[0]))
    old = checkpoint_folder(run, STEPS[0])
    with whole_folder(old.with_name("work")) as folder:
        for path in old.iterdir():
            if path.name != CHECKSUMS_FILE:
                shutil.copy(path, folder)
        state = json.loads((folder / STATE_FILE).read_text())
        state["spent"]["step"] = step
        state["metrics_bytes"] = metrics.stat().st_size
        (folder / STATE_FILE).write_text(json.dumps(state))
    shutil.rmtree(old)
    old.with_name("work").rename(checkpoint_folder(run, step))


_RUN = """
import sys, time
from bertsmith.cli.main import main
from bertsmith.reporting.metrics_file import MetricsFile

write = MetricsFile.write
def timed(self, step, figures):
    print("logged", time.time())
    write(self, step, figures)
MetricsFile.write = timed
main(["pretrain", *sys.argv[1:]])
"""


def pretrain(*arguments: str) -> float:
    """Run the command line in a process of its own; when it logged its first line."""
    command = [sys.executable, "-c", _RUN, *arguments, "--quiet", "--device", "cpu"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[0].removeprefix("logged "))


def report(saving: dict[str, Turns], resuming: Turns, rounds: int) -> str:
    """The tables as Markdown."""
    lines = [
        "# What never losing a run costs",
        "",
        f"`python -m benchmarks.reliability`; median of {rounds} turns (lowest to highest). "
        f"{processor()}; {versions()}.",
        "",
        "A checkpoint: how long training is held up while it is copied, when it is whole on disk "
        "with its checksums, and what checking and restoring it take. Beside it `torch.save` of "
        "the same tensors with a flush, for all of which training would wait.",
        "",
        "| preset | MB | held up, s | whole after, s | `torch.save` holds up, s | that is "
        "| check, s | restore, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for preset, turns in saving.items():
        ours = turns["bertsmith"]
        cells = [
            preset,
            f"{ours[0]['megabytes']:,.0f}",
            *(column(ours, name, "{:.2f}") for name in ("held", "whole")),
            column(turns["torch.save"], "held", "{:.2f}"),
            times(turns, "torch.save", "bertsmith", "held"),
            *(column(ours, name, "{:.2f}") for name in ("check", "restore")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Resuming the textbook's run: from the start of the process to the line of its first step, "
        "most of it the reading of the text; and to the end, with a validation on all pairs and "
        "the curves of all lines.",
        "",
        "| after so many steps | first line, s | end, s |",
        "|---|---|---|",
        *(
            f"| {int(step):,} | {column(turns, 'logged', '{:.1f}')} "
            f"| {column(turns, 'whole', '{:.1f}')} |"
            for step, turns in resuming.items()
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
