"""Under PyTorch's own launcher, and with the largest published network."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bertsmith.reporting.metrics_file import read_metrics
from tests.ranks.job import free_port, wait_for_port
from tests.support.ranks import (
    assert_alike,
    assert_goes_on,
    begin,
    torchrun,
    workers,
)
from tests.support.runs import wait_for_lines

pytestmark = pytest.mark.slow


def test_the_launcher_names_a_rank_that_died_and_goes_on(text_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [*torchrun(2, "--max-restarts=1"), *begin(text_file, folder, steps=200)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
        wait_for_lines(folder, 5)
        before = read_metrics(folder)
        os.kill(workers(job.pid)[1], signal.SIGKILL)
        _, said = job.communicate(timeout=600)
    assert job.returncode == 0, said
    assert "rank: 1" in said or "local_rank: 1" in said
    assert_goes_on(before, folder)


def test_a_job_without_restarts_ends_soon_after_a_rank(text_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [*torchrun(2), *begin(text_file, folder, steps=100_000)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
        wait_for_lines(folder, 10)
        os.kill(workers(job.pid)[1], signal.SIGKILL)
        began = time.monotonic()
        _, said = job.communicate(timeout=600)
        seconds = time.monotonic() - began
    assert job.returncode == 1
    root = said[said.index("Root Cause") :]
    assert "local_rank: 1" in root
    assert "-9" in root
    assert seconds < 60


def test_launchers_meet_and_one_goes_on_without_the_other(text_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    meeting = ["--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d"]
    port = free_port()
    meeting += [f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test"]
    command = [sys.executable, "-m", "torch.distributed.run", *meeting, "-m", "bertsmith"]
    command += begin(text_file, folder, "--resume", steps=600)
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as first:
        wait_for_port(port)  # where they meet is with the first one, which stays
        with subprocess.Popen(command, env=environment) as second:
            wait_for_lines(folder, 60)
            mine, others = workers(first.pid), workers(second.pid)
            assert {*mine, *others} == {0, 1}
            before = read_metrics(folder)
            for process in (second.pid, *others.values()):
                os.kill(process, signal.SIGKILL)
        _, said = first.communicate(timeout=600)
    assert first.returncode == 0, said
    assert_goes_on(before, folder)


def test_the_launcher_gives_what_one_process_gives(text_file: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "bertsmith", *begin(text_file, one)], check=True, env=environment
    )
    subprocess.run([*torchrun(2), *begin(text_file, two)], check=True, env=environment)
    assert_alike(one, two, digits=2e-4)


def test_bert_large_at_full_length_makes_a_step(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(30_500)]
    draw = random.Random(0)
    draw.shuffle(words)
    sentences = [" ".join(words[first : first + 20]) + " ." for first in range(0, 30_500, 20)]
    half = len(sentences) // 2
    texts = ["\n".join(sentences[:half]), "\n".join(sentences[half:])]
    corpus = tmp_path / "text.txt"
    corpus.write_text("\n\n".join(texts * 2) + "\n", encoding="utf-8")
    shape = "--preset large --max-length 512 --max-position-embeddings 512 --objective mlm"
    vocabulary = "--tokenizer word --min-frequency 1"
    work = "--batch-size 2 --steps 1 --device cpu --validation-pairs 1 --quiet --json"
    flags = [*shape.split(), *vocabulary.split(), *work.split()]
    place = ["--corpus", str(corpus), "--output", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "bertsmith", "pretrain", *place, *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parameters"] > 333_000_000
    assert found["steps"] == 1
    assert found["tokens"] > 900
    assert found["peak_memory_bytes"] < 24e9
