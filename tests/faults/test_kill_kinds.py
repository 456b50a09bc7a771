"""Every kind of run, preparation and fine-tuning that is killed ends as if nothing had happened."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from bertsmith.durable import damage
from bertsmith.reporting.metrics_file import read_metrics
from bertsmith.saved.locate import list_checkpoints
from tests.support.faults import TINY, Machine, points, resume_arguments
from tests.support.runs import result_of
from tests.support.stores import content

Arguments = list[str | Path]

RUNS: dict[str, str] = {
    "one segment, spans": "--objective mlm --masking span",
    "AdamW": "--optimizer adamw --lr-scheduler-type cosine",
    "the chapter's recipe": "--recipe chapter",
    "pieces, filled pairs": "--tokenizer wordpiece --pairing filled",
    "bytes, whole words": "--tokenizer bpe --masking whole-word",
    "bfloat16": "--precision bfloat16",
    "recomputing": "--recompute",
    "a loss that diverges": "--learning-rate 0.2 --seed 1 --spike-factor 1.01 --max-rollbacks 30",
}
"""Flags of the kinds of runs, beside those of the plain one that `test_kill.py` kills."""

POINTS = 70
"""Of each kind."""


def arguments_of(kind: str, corpus: Path, run: Path) -> Arguments:
    flags = [*TINY, *RUNS[kind].split()]
    return ["pretrain", "--corpus", corpus, "--output", run, "--steps", "10", *flags]


def kill_kind(
    machine: Machine, folder: Path, begin: Callable[[Path], Arguments], number: int
) -> int:
    """Kill a run at so many of its changes to the disk and go on each time; how many there were."""
    whole = machine.run(*begin(folder / "whole"), under=folder / "whole")
    assert whole.status == 0, whole
    wanted = result_of(folder / "whole")
    tried = points(whole.calls, number)
    for at in tried:
        run = folder / str(at)
        died = machine.run(*begin(run), under=run, at=at)
        # Curves are drawn by the clock: a run may end before the last changes of another.
        assert died.status == (-signal.SIGKILL if died.calls < 1 else 0), (at, died)
        assert died.calls < at, (at, died)
        for checkpoint in list_checkpoints(run):
            assert damage(checkpoint) is None, (at, checkpoint)
        ended = machine.run(*resume_arguments(run), under=run)
        if ended.status:  # killed before the run was written down
            ended = machine.run(*begin(run), "--resume", under=run)
        assert ended.status == 0, (at, ended)
        assert result_of(run) == wanted, at
        shutil.rmtree(run)
    return len(tried)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_runs_of_every_kind(machine: Machine, text_file: Path, tmp_path: Path, kind: str) -> None:
    tried = kill_kind(machine, tmp_path, lambda run: arguments_of(kind, text_file, run), POINTS)
    lines = read_metrics(tmp_path / "whole")
    assert any("rolled_back_from" in line for line in lines) == ("diverges" in kind)
    print(f"{kind}: {tried} kill points")


@pytest.mark.slow
def test_runs_on_a_store(machine: Machine, text_file: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    flags = ["--min-frequency", "2", "--quiet"]
    made = machine.run("prepare", "--corpus", text_file, "--output", store, *flags, under=store)
    assert made.status == 0, made
    place = TINY.index("--min-frequency")
    own = TINY[:place] + TINY[place + 2 :]  # a store has its vocabulary

    def begin(run: Path) -> Arguments:
        return ["pretrain", "--corpus", store, "--output", run, "--steps", "10", *own]

    print(f"on a store: {kill_kind(machine, tmp_path, begin, POINTS)} kill points")


@pytest.mark.slow
def test_runs_that_go_on_from_a_model(machine: Machine, text_file: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert machine.run(*arguments_of("AdamW", text_file, first), under=first).status == 0
    flags = "--max-length 24 --batch-size 16 --micro-batch 144 --device cpu --quiet".split()
    flags += "--checkpoint-every 3 --log-every 2 --validate-every 4 --seed 1".split()

    def begin(run: Path) -> Arguments:
        paths: Arguments = ["--corpus", text_file, "--output", run, "--init-from", first]
        return ["pretrain", *paths, "--steps", "10", *flags]

    print(f"from a model: {kill_kind(machine, tmp_path, begin, POINTS)} kill points")


PREPARATIONS: dict[str, list[str]] = {
    "pieces": ["--tokenizer", "wordpiece", "--vocab-size", "200"],
    "bytes": ["--tokenizer", "bpe", "--vocab-size", "300", "--deduplicate", "exact"],
    "unigrams": ["--tokenizer", "unigram", "--vocab-size", "100"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PREPARATIONS)
def test_preparations_of_every_kind(
    machine: Machine, text_file: Path, tmp_path: Path, kind: str
) -> None:
    def prepare(store: Path) -> Arguments:
        flags = ["--processes", "1", "--quiet", *PREPARATIONS[kind]]
        return ["prepare", "--corpus", text_file, "--output", store, *flags]

    whole = machine.run(*prepare(tmp_path / "whole"), under=tmp_path / "whole")
    assert whole.status == 0, whole
    tried = points(whole.calls, POINTS)
    for at in tried:
        store = tmp_path / str(at)
        assert machine.run(*prepare(store), under=store, at=at).status == -signal.SIGKILL
        again = machine.run(*prepare(store), under=store)
        assert again.status == 0, (at, again)
        assert content(store) == content(tmp_path / "whole"), at
        shutil.rmtree(store)
    print(f"{kind}: {len(tried)} kill points")


@pytest.mark.slow
@pytest.mark.parametrize("replaces", [False, True])
def test_finetunings(machine: Machine, text_file: Path, tmp_path: Path, replaces: bool) -> None:
    """What is there is the earlier one, nothing, or the whole; resumed, or done again, the same."""
    first = tmp_path / "run"
    assert machine.run(*arguments_of("AdamW", text_file, first), under=first).status == 0
    rows = ["sentence\tlabel", *(f"the crane lifts {n}\t{n % 2}" for n in range(20))]
    table = tmp_path / "labels.tsv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")

    def finetune(output: Path, seed: int) -> Arguments:
        tables: Arguments = ["--train", table, "--validation", table, "--output", output]
        flags = "--epochs 1 --batch-size 8 --device cpu --quiet --overwrite".split()
        return ["finetune", first, *tables, *flags, "--seeds", str(seed)]

    whole, other = tmp_path / "outputs" / "whole", tmp_path / "outputs" / "other"
    ended = machine.run(*finetune(whole, 0), under=whole.parent)
    assert ended.status == 0, ended
    assert machine.run(*finetune(other, 1), under=other.parent).status == 0
    calls = ended.calls
    if replaces:
        again = Path(shutil.copytree(other, tmp_path / "outputs" / "again"))
        calls = machine.run(*finetune(again, 0), under=whole.parent).calls
    tried = points(calls, POINTS)
    for at in tried:
        folder = tmp_path / str(at)
        if replaces:
            shutil.copytree(other, folder / "o")
        died = machine.run(*finetune(folder / "o", 0), under=folder, at=at)
        assert died.status == -signal.SIGKILL, (at, died)
        if (folder / "o").exists():
            assert damage(folder / "o") is None
            assert files_of(folder / "o") in (files_of(whole), files_of(other))
        repeat = finetune(folder / "o", 0)
        if not replaces:
            repeat = ["--resume" if part == "--overwrite" else part for part in repeat]
        ended = machine.run(*repeat, under=folder)
        assert ended.status == 0, (at, ended)
        assert files_of(folder / "o") == files_of(whole), at
        assert [path.name for path in folder.iterdir()] == ["o"], at
        shutil.rmtree(folder)
    print(f"fine-tuning: {len(tried)} kill points")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
