"""How fast batches are made, without training: by one process, and by several for one that trains.

    python -m benchmarks.batches --corpus wikitext-2
    python -m benchmarks.batches --workers 0 2 4 8 --processors 16
    python -m benchmarks.batches --fixed        # laid out for compiled steps

Rates are of what the training process has in its hands, one batch after the other, as fast as it
can take them; 0 workers are the thread that makes batches where there are few processors. What the
training process itself does for a batch is its CPU time, all threads counted: it could take no more
than that allows, however many workers it had. Each figure is of a process of its own, started anew;
the sides take turns. Writes benchmarks/results/batches.md, or with --fixed batches-fixed.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.report import column, figures_of, processor, spread, versions
from bertsmith.config import resolve
from bertsmith.data.ahead import BatchesAhead, usual_num_workers
from bertsmith.data.batches import Batches
from bertsmith.display import Display
from bertsmith.hardware.device import TOKENS_AT_ONCE, keep_freed_memory
from bertsmith.training.fixed import FixedBatches, FixedShape
from bertsmith.training.prepare import prepare

RESULTS = Path(__file__).parent / "results"
CASES: dict[str, dict[str, Any]] = {
    "textbook": {"preset": "textbook", "batch_size": 2048},
    "tiny": {"preset": "tiny", "batch_size": 1024},
    "base at 128": {"preset": "base", "max_length": 128, "batch_size": 512},
    "base at 512": {"preset": "base", "max_length": 512, "batch_size": 128},
}
WARM_UP = 30
"""Batches; more than are under way at once."""
_SITES = 200
"""Dropout keys of a step, about those of `base`."""
Turns = dict[int, list[dict[str, float]]]


def main() -> None:
    """Measure all and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="wikitext-2", help="a name or a path")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--processors", type=int, default=16, help="to reckon for")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every side")
    parser.add_argument("--batches", type=int, default=300, help="timed batches a turn")
    parser.add_argument("--fixed", action="store_true", help="in the shape of compiled steps")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.cases[0], options.workers[0], options)))
        return
    found: dict[str, Turns] = {}
    for case in options.cases:
        turns = found[case] = {number: [] for number in options.workers}
        for _ in range(options.rounds):
            for number in options.workers:
                figures = figures_of(
                    *("benchmarks.batches", "--one", "--cases", case, "--workers", str(number)),
                    *("--corpus", options.corpus, "--batches", str(options.batches)),
                    *(["--fixed"] if options.fixed else []),
                )
                turns[number].append(figures)
                print(case, number, figures, flush=True)
    text = report(found, options)
    RESULTS.mkdir(exist_ok=True)
    name = "batches-fixed.md" if options.fixed else "batches.md"
    (RESULTS / name).write_text(text, encoding="utf-8")
    print(text)


def measure(case: str, num_workers: int, options: argparse.Namespace) -> dict[str, float]:
    """One turn of one side."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as in a run
    batches = batches_of(case, options.corpus)
    make = in_fixed_shape(case, batches).batch if options.fixed else batches.batch
    pin_memory = torch.cuda.is_available()
    started = time.perf_counter()
    with BatchesAhead(make, pin_memory=pin_memory, num_workers=num_workers) as source:
        source.batch(0)
        first = time.perf_counter() - started
        source.wait_for_workers()
        up = time.perf_counter() - started
        for number in range(WARM_UP):
            source.batch(number)
        workers = psutil.Process().children()
        began = np.array([time.perf_counter(), time.process_time(), cpu_seconds(workers)])
        for number in range(WARM_UP, WARM_UP + options.batches):
            batch = source.batch(number)
        ended = np.array([time.perf_counter(), time.process_time(), cpu_seconds(workers)])
        memory = sum(one.memory_full_info().uss for one in workers)
    seconds, own, theirs = ((ended - began) / options.batches).tolist()
    arrays = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    return {
        "rate": batches.batch_size / seconds,
        "own_milliseconds": own * 1e3,
        "own_rate": batches.batch_size / own,
        "worker_milliseconds": theirs * 1e3,
        "first_milliseconds": first * 1e3,
        "up_seconds": up,
        "worker_megabytes": memory / max(len(workers), 1) / 1e6,
        "megabytes": sum(array.nbytes for array in arrays) / 1e6,
    }


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """Of all of them so far."""
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def batches_of(case: str, corpus: str) -> Batches:
    """The training split's batches, prepared or found prepared."""
    config = resolve(
        preset=CASES[case]["preset"],
        overrides={
            "corpus": (corpus,),
            **{name: value for name, value in CASES[case].items() if name != "preset"},
        },
    )
    display = Display(quiet=True)
    found = prepare(config.preparation, config.data, config.training, display=display).batches
    assert isinstance(found, Batches)  # of one length
    return found


def in_fixed_shape(case: str, batches: Batches) -> FixedBatches:
    """The same as a compiled step takes them on a GPU."""
    length = CASES[case].get("max_length", 64)
    shape = FixedShape.for_batches(
        [batches.batch(number) for number in range(16)],
        most_tokens=TOKENS_AT_ONCE["cuda"],
        max_length=length,
        sites=_SITES,
    )
    return FixedBatches(batches, shape)


def report(found: dict[str, Turns], options: argparse.Namespace) -> str:
    """The tables as Markdown."""
    count = usual_num_workers(options.processors)
    lines = [
        "# Making batches",
        "",
        f"`python -m benchmarks.batches{' --fixed' if options.fixed else ''}` — WikiText-2, "
        f"{options.batches} batches a turn, "
        f"{options.rounds} turns: median (lowest to highest); the sides take turns. Data alone: "
        "nobody trains, the training process takes each batch as soon as it is there"
        f"{', in pinned memory' if torch.cuda.is_available() else ''}.",
        "",
        f"{processor()}; {versions()}.",
    ]
    for case, turns in found.items():
        shape = CASES[case]
        some = next(iter(turns.values()))[0]
        lines += [
            "",
            f"## {case}: {shape['batch_size']} pairs a batch, {some['megabytes']:.1f} MB",
            "",
            "| made by | pairs/s "
            "| CPU time a batch, ms: of the training process | of its workers |",
            "|---|---|---|---|",
        ]
        for number, rows in turns.items():
            name = f"{number} worker{'s' * (number > 1)}" if number else "a thread of it"
            own, theirs = (column(rows, f"{o}_milliseconds", "{:.2f}") for o in ("own", "worker"))
            lines.append(
                f"| {name} | {column(rows, 'rate', '{:,.0f}')} | {own} "
                f"| {theirs if number else '—'} |"
            )
        most = max(turns)
        if most:
            lines += ["", *reckoned(turns[most], most, count, options.processors)]
    return "\n".join([*lines, ""])


def reckoned(rows: list[dict[str, float]], measured: int, count: int, processors: int) -> list[str]:
    """What so many processors would give."""
    by_workers = [row["rate"] / measured * count for row in rows]
    own = [row["own_rate"] for row in rows]
    rate = min(statistics.median(by_workers), statistics.median(own))
    return [
        f"On {processors} processors, {count} workers: **{rate:,.0f} pairs/s**, reckoned. It is "
        f"the less of two: {count}/{measured} of the rate of {measured} workers, "
        f"{spread(by_workers, '{:,.0f}')}; and what the training process could take by its CPU "
        f"time alone, {spread(own, '{:,.0f}')}. A worker takes "
        f"{column(rows, 'worker_megabytes', '{:.0f}')} MB of memory of its own; the first batch is "
        f"there after {column(rows, 'first_milliseconds', '{:.0f}')} ms, made by the thread, and "
        f"all workers after {column(rows, 'up_seconds', '{:.1f}')} s.",
    ]


if __name__ == "__main__":
    main()
