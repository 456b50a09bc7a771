"""Corpora, stores, runs, checkpoints, models and configurations with accidents: refused or read."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bertsmith
from bertsmith.training.run import Run
from tests.faults.fuzz import KINDS, SECONDS, fuzz, write_corpora

MUTANTS = 1500
"""Of each kind, in the slow test."""
AT_ONCE = 250
TEXTS = [[f"The crane {n} lifts a béam.", 'It "waits", quietly.', "河流。"] for n in range(12)]


@pytest.fixture(scope="session")
def store(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzzed") / "store"
    return bertsmith.prepare(text_file, folder, min_frequency=2, quiet=True)


@pytest.fixture
def source(kind: str, store: Path, finished_run: Run, tmp_path: Path) -> Path:
    """A copy of what is damaged."""
    if kind == "corpora":
        write_corpora(tmp_path / "source", [" ".join(document) for document in TEXTS])
        return tmp_path / "source"
    run = finished_run.output
    of = {
        "store": store,
        "checkpoint": run / "checkpoints" / "step-00000008",
        "model": run / "model",
    }
    return Path(shutil.copytree(of.get(kind.partition(",")[0], run), tmp_path / "source"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_accidents(kind: str, source: Path, tmp_path: Path) -> None:
    fuzz(KINDS[kind], source, tmp_path, random.Random(kind), 30)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_accidents(kind: str, source: Path, tmp_path: Path) -> None:
    """In processes of their own, with a bound on the memory and the time that a mutant takes."""
    first = random.SystemRandom().randrange(2**31)
    for seed in range(first, first + MUTANTS // AT_ONCE):
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.fuzz", source, kind, str(seed), str(AT_ONCE)],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS * AT_ONCE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        tried = next(tmp_path.glob("*/tried.json"), None)
        what = tried.read_text()[:5000] if tried else ""
        assert done.returncode == 0, f"seed {seed}: {done.returncode} {done.stderr[-3000:]} {what}"
    print(f"{kind}: {MUTANTS} mutants")
