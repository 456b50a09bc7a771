"""Runs of several ranks: what begins them, and what must hold of them."""

from __future__ import annotations

import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from bertsmith.reporting.metrics_file import read_metrics

STEPS, GOES_ON_FROM = 10, 6
TINY = (
    "--max-length 24 --batch-size 10 --micro-batch 60 --min-frequency 2 --device cpu "
    "--num-hidden-layers 2 --hidden-size 16 --intermediate-size 32 --num-attention-heads 2 "
    "--hidden-dropout-prob 0.1 --attention-probs-dropout-prob 0.1 --quiet "
    "--checkpoint-every 3 --keep-checkpoints 9 --log-every 2 --validate-every 4"
).split()
OF_THE_CLOCK = ("seconds", "_per_second", "share_of_peak", "device", "_memory_bytes")
OF_DATA = ("step", "pairs", "tokens", "cut_pairs", "cut_tokens", "validation_num_masked_tokens")


def begin(corpus: Path, folder: Path, *more: str, steps: int = STEPS) -> list[str]:
    given = ["--corpus", str(corpus), "--output", str(folder), "--steps", str(steps)]
    return ["pretrain", *given, *TINY, *more]


def go_on(folder: Path, *more: str) -> list[str]:
    return ["pretrain", "--resume", "--output", str(folder), "--quiet", *more]


def figures(folder: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if not name.endswith(OF_THE_CLOCK)}
        for line in read_metrics(folder)
    ]


def assert_alike(one: Path, other: Path, *, digits: float) -> None:
    """The same data to the token, and numbers to within so much."""
    lines = list(zip(figures(one), figures(other), strict=True))
    for mine, theirs in lines:
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            if name in OF_DATA or not isinstance(value, float):
                assert theirs[name] == value, name
            else:
                assert theirs[name] == pytest.approx(value, rel=digits, abs=digits), name
    weights, others = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    for name, value in weights.items():
        np.testing.assert_allclose(others[name], value, rtol=0, atol=digits, err_msg=name)


def assert_goes_on(before: list[dict[str, Any]], folder: Path) -> None:
    """Lines up to a checkpoint are as they were, those after it follow, and the run is finished."""
    lines = read_metrics(folder)
    pairs = zip(before, lines, strict=False)
    kept = list(takewhile(lambda pair: pair[0] == pair[1], pairs))  # with their seconds
    assert kept, "nothing of what was done is left"
    assert lines[-1]["finished"]
    numbers = [line["step"] for line in lines if "learning_rate" in line]
    assert numbers == sorted(set(numbers))


def torchrun(size: int, *options: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={size}"]
    return [*launcher, "--standalone", *options, "-m", "bertsmith"]


def workers(launcher: int) -> dict[int, int]:
    """Process ids of a launcher's workers, by rank."""
    found = {}
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        for variable in Path(f"/proc/{child}/environ").read_text().split("\0"):
            if variable.startswith("RANK="):
                found[int(variable.removeprefix("RANK="))] = int(child)
    return found
