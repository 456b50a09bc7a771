"""Preparing text, beside `tokenizers` alone and `datasets.map`; starting on a large store.

    python -m benchmarks.data --corpus wikitext-2

The text is the corpus's training split, its documents again and again in a random order up to the
size that is wanted. Every figure is of a process of its own, started anew; memory is the
proportional set size of the process and its children, looked at twice a second. Writes
benchmarks/results/data.md.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.report import column, processor, times, versions
from bertsmith.config import STORE_MANIFEST_FILE
from bertsmith.corpus import open_corpus
from bertsmith.data.disk import open_store
from bertsmith.data.manifest import FREQUENCIES_FILE, Manifest, SplitEntry
from bertsmith.data.shards import write_frequencies, write_shard
from bertsmith.data.store import Offsets, Shard

RESULTS = Path(__file__).parent / "results"
STEPS = 40
"""Of training from a store, until memory is looked at."""

PREPARE = [sys.executable, "-m", "bertsmith", "prepare", "--quiet"]
Turns = dict[str, list[dict[str, float]]]


def main() -> None:
    """Measure all and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="wikitext-2", help="a name or a path")
    parser.add_argument("--megabytes", type=int, default=128, help="of text beside the peers")
    parser.add_argument("--rounds", type=int, default=3, help="turns of what is compared")
    parser.add_argument("--large", type=int, nargs="*", default=[1000], help="MB, for memory alone")
    parser.add_argument("--tokens", type=int, default=10**9, help="of the large store")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary one")
    parser.add_argument("--side", choices=["tokenizers", "datasets"], help=argparse.SUPPRESS)
    parser.add_argument("--text", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side = raw_encoding if options.side == "tokenizers" else with_datasets
        print(json.dumps(side(options.text, options.folder)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        text = report(measure(options, Path(name)), options)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "data.md").write_text(text, encoding="utf-8")
    print(text)


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All figures."""
    os.environ["BERTSMITH_CACHE"] = str(work / "cache")
    tokenizer = work / "own" / "tokenizer"
    small = ["--preset", "tiny", "--vocab-size", "16000", "--output", str(work / "own")]
    run([*PREPARE, "--corpus", options.corpus, *small])
    text = make_text(options.corpus, options.megabytes, work / "text.txt")
    ready = [prepare_corpus(options.corpus, work) for _ in range(options.rounds)]
    sides: Turns = {"bertsmith": [], "tokenizers": [], "datasets": []}
    for _ in range(options.rounds):
        for name, turns in sides.items():
            turns.append(compare(name, text, tokenizer, work))
    text.unlink()
    starts = measure_starts(work, options.tokens)
    shutil.rmtree(work / "large")
    large = {}
    for megabytes in options.large:
        file = make_text(options.corpus, megabytes, work / "large.txt")
        large[megabytes] = prepare_file(file, tokenizer, work)
        file.unlink()
    return {"ready": ready, "sides": sides, "large": large, "starts": starts}


def compare(name: str, text: Path, tokenizer: Path, work: Path) -> dict[str, float]:
    """One side's figures on `text`."""
    if name == "bertsmith":
        return prepare_file(text, tokenizer, work)
    (work / name).mkdir()
    with timed() as figures:
        arguments = ["--side", name, "--text", str(text), "--folder", str(tokenizer)]
        said = run(
            [sys.executable, "-m", "benchmarks.data", *arguments],
            figures,
            HF_HOME=str(work / name),
            RAYON_NUM_THREADS="2",
        )
    shutil.rmtree(work / name)
    figures |= json.loads(said.splitlines()[-1])
    figures["megabytes_per_second"] = text.stat().st_size / 1e6 / figures["seconds"]
    return figures


def prepare_file(text: Path, tokenizer: Path, work: Path) -> dict[str, float]:
    """Our side: the whole command, from its start to a store on disk."""
    store = work / "store"
    with timed() as figures:
        arguments = ["--corpus", str(text), "--tokenizer", str(tokenizer), "--processes", "2"]
        run([*PREPARE, *arguments, "--output", str(store)], figures)
    figures["tokens"] = sum(
        shard.tokens
        for split in open_store(store).manifest.splits.values()
        for shard in split.shards
    )
    shutil.rmtree(store)
    figures["megabytes_per_second"] = text.stat().st_size / 1e6 / figures["seconds"]
    return figures


def prepare_corpus(corpus: str, work: Path) -> dict[str, float]:
    """From raw text to a ready store, vocabulary included."""
    with timed() as figures:
        run([*PREPARE, "--corpus", corpus, "--output", str(work / "ready")], figures)
    shutil.rmtree(work / "ready")
    return figures


def raw_encoding(text: Path, tokenizer: Path) -> dict[str, float]:
    """The library's own batch encoding of the same lines, and nothing else on the clock."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    lines = [line for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
    started = time.perf_counter()
    num_tokens = 0
    for first in range(0, len(lines), 1024):
        batch = backend.encode_batch_fast(lines[first : first + 1024], add_special_tokens=False)
        num_tokens += sum(map(len, batch))
    return {"seconds": time.perf_counter() - started, "tokens": num_tokens}


def with_datasets(text: Path, tokenizer: Path) -> dict[str, float]:
    """As `run_mlm.py` of transformers does it: tokenize lines, then join and cut them to 512."""
    from itertools import chain

    from datasets import disable_progress_bars, load_dataset
    from transformers import AutoTokenizer

    disable_progress_bars()
    started = time.perf_counter()
    backend = AutoTokenizer.from_pretrained(tokenizer)
    length = 512

    def group(examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        joined = {key: list(chain(*rows)) for key, rows in examples.items()}
        total = len(joined["input_ids"]) // length * length
        return {
            key: [values[i : i + length] for i in range(0, total, length)]
            for key, values in joined.items()
        }

    data = load_dataset("text", data_files=str(text), split="train")
    data = data.map(
        lambda rows: backend(rows["text"], return_special_tokens_mask=True),
        batched=True,
        num_proc=2,
        remove_columns=["text"],
    )
    data = data.map(group, batched=True, num_proc=2)
    return {"seconds": time.perf_counter() - started, "tokens": len(data) * length}


def measure_starts(work: Path, num_tokens: int) -> dict[str, dict[str, float]]:
    """Training from a small store and from a large one: until the first line of the log."""
    large = repeat_store(work / "own", work / "large", num_tokens)
    found = {}
    for shape in (["--objective", "mlm"], ["--pairing", "adjacent"], ["--pairing", "filled"]):
        for name, store in (("small", work / "own"), ("large", large), ("large, again", large)):
            found[f"{shape[1]}: {name}"] = start_on(store, shape, work / "run")
    return found


def start_on(store: Path, shape: list[str], output: Path) -> dict[str, float]:
    """Seconds until the first line of the log, and the most memory until the last one."""
    arguments = ["--corpus", str(store), "--preset", "tiny", "--output", str(output), "--quiet"]
    command = [sys.executable, "-m", "bertsmith", "pretrain", *arguments, *shape]
    command += ["--steps", "1000", "--max-length", "128", "--batch-size", "32"]
    figures: dict[str, float] = {}
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        log = output / "metrics.jsonl"
        num_lines = 0
        while process.poll() is None:
            num_lines = log.read_text().count("\n") if log.is_file() else 0
            if num_lines and "first" not in figures:
                figures["first"] = time.perf_counter() - started
            if num_lines >= STEPS:
                note_memory(process.pid, figures)
                process.terminate()  # it writes a checkpoint and leaves
                process.wait()
            time.sleep(0.05)
        if num_lines < STEPS:
            raise SystemExit(f"{' '.join(command)} failed.")
    shutil.rmtree(output)
    return figures


def repeat_store(source: Path, target: Path, num_tokens: int) -> Path:
    """A store of so many tokens, made of shards that each repeat one of `source`."""
    store = open_store(source)
    manifest = store.manifest
    one = store.split("train").shard(0)
    times_a_shard = max(1, 8_000_000 // len(one.ids))
    shard = Shard(
        ids=np.tile(one.ids, times_a_shard),
        sentence_offsets=_tile_offsets(one.sentence_offsets, times_a_shard),
        paragraph_offsets=_tile_offsets(one.paragraph_offsets, times_a_shard),
        document_offsets=_tile_offsets(one.document_offsets, times_a_shard),
    )
    shutil.copytree(source, target)
    shutil.rmtree(target / "train")
    (target / "train").mkdir()
    count = -(-num_tokens // len(shard.ids))
    entries = [write_shard(shard, target / "train" / f"{n:06}-000.arrow") for n in range(count)]
    counts = store.split("train").frequencies(manifest.vocab_size) * count * times_a_shard
    digest = write_frequencies(counts, target / "train" / FREQUENCIES_FILE)
    train = SplitEntry(shards=entries, frequencies_sha256=digest)
    splits = {**manifest.splits, "train": train}
    report = copy.deepcopy(manifest.report)
    report["splits"]["train"] |= {"tokens": train.tokens}
    report["sha256"] |= {"train": train.digest}
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
    text = Manifest(**{**fields, "splits": splits, "report": report}).to_json()
    (target / STORE_MANIFEST_FILE).write_bytes(text)
    return target


def _tile_offsets(offsets: Offsets, count: int) -> Offsets:
    """The offsets of so many repetitions."""
    steps = np.arange(count, dtype=np.int64)[:, None] * int(offsets[-1])
    inner = (offsets[None, :-1] + steps).reshape(-1)
    return np.append(inner, count * int(offsets[-1])).astype(np.int32)


def make_text(corpus: str, megabytes: int, file: Path) -> Path:
    """The training split as plain text, its documents in a random order until there is enough."""
    documents = open_corpus([corpus]).read("train")
    texts = ["\n".join(". ".join(p) for p in d).replace("[UNK]", "Unk") + "\n\n" for d in documents]
    draw, size = random.Random(0), 0
    with file.open("w", encoding="utf-8") as stream:
        while size < megabytes * 10**6:
            draw.shuffle(texts)
            for text in texts:
                stream.write(text)
                size += len(text.encode())
                if size >= megabytes * 10**6:
                    break
    return file


@contextlib.contextmanager
def timed() -> Iterator[dict[str, float]]:
    """The seconds inside."""
    figures: dict[str, float] = {}
    started = time.perf_counter()
    yield figures
    figures["seconds"] = time.perf_counter() - started


def run(command: list[str], figures: dict[str, float] | None = None, **variables: str) -> str:
    """What a command prints; its memory goes into `figures`."""
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=said, env={**os.environ, **variables}) as process,
    ):
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
                break
            if figures is not None:
                note_memory(process.pid, figures)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed.")
        said.seek(0)
        return said.read()


def note_memory(process_id: int, figures: dict[str, float]) -> None:
    """Keep the most memory seen: of the process and its children, in GB; `own` without files."""
    total = own = 0
    try:
        process = psutil.Process(process_id)
        for one in (process, *process.children(recursive=True)):
            for line in Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in ("Pss", "Pss_Anon"):
                    total += int(value.split()[0]) * (name == "Pss")
                    own += int(value.split()[0]) * (name == "Pss_Anon")
    except (OSError, psutil.Error):
        return
    figures["memory"] = max(figures.get("memory", 0.0), total * 1024 / 1e9)
    figures["own"] = max(figures.get("own", 0.0), own * 1024 / 1e9)


def report(found: dict[str, Any], options: argparse.Namespace) -> str:
    """The tables as Markdown."""
    sides: Turns = found["sides"]
    ready = column(found["ready"], "seconds", "{:.2f}")
    rate = "megabytes_per_second"
    lines = [
        "# Preparing text",
        "",
        f"{processor()}; {versions()}. `python -m benchmarks.data`, {options.rounds} alternating "
        "turns: median (lowest to highest). MB are 10^6 bytes of UTF-8; memory is the proportional "
        "set size of a process and its children.",
        "",
        f"## {options.megabytes} MB, two cores, the same WordPiece vocabulary of 16,000",
        "",
        "| | MB/s | our rate is | memory, GB | tokens |",
        "|---|---|---|---|---|",
    ]
    names = {
        "bertsmith": "`bertsmith prepare`: the whole command, sentences split, store on disk",
        "tokenizers": "`tokenizers`, `encode_batch_fast`, two threads: encoding alone",
        "datasets": "`datasets.map` + `group_texts`, two processes, as in `run_mlm.py`",
    }
    for side, name in names.items():
        lines.append(
            f"| {name} | {column(sides[side], rate, '{:.2f}')} "
            f"| {times(sides, 'bertsmith', side, rate)} "
            f"| {column(sides[side], 'memory', '{:.2f}')} | {sides[side][0]['tokens']:,.0f} |"
        )
    lines += [
        "",
        "## A whole corpus",
        "",
        f"- WikiText-2, from raw text to a ready store, words counted: {ready} s",
    ]
    for megabytes, figures in found["large"].items():
        lines.append(
            f"- {megabytes:,} MB of text: {figures['memory']:.2f} GB of memory at most (without "
            f"mapped files {figures['own']:.2f}), {figures['tokens']:,.0f} tokens"
        )
    lines += [
        "",
        f"## Training from a store of {options.tokens:,} tokens",
        "",
        f"From the start of the process to the first line of the log, and the memory after {STEPS} "
        "steps (`tiny`, batches of 32 at length 128). The first start lays out the examples and "
        "keeps the table.",
        "",
        "| examples: store | first line, s | own memory, GB | with mapped files, GB |",
        "|---|---|---|---|",
    ]
    for name, figures in found["starts"].items():
        lines.append(
            f"| {name} | {figures['first']:.1f} | {figures['own']:.2f} | {figures['memory']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
