"""Steps and whole runs on the device: what repeats, what goes on, what waits, what fits."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import bertsmith
from bertsmith.architectures import build
from bertsmith.config import resolve
from bertsmith.data.store import TokenStore
from bertsmith.data.worker import pinned
from bertsmith.errors import RunStopped
from bertsmith.hardware.device import TOKENS_AT_ONCE, autocast, peak_bytes
from bertsmith.ranks import ALONE
from bertsmith.reporting.metrics_file import read_metrics
from bertsmith.saved.locate import list_checkpoints
from bertsmith.tokenizer import Tokenizer
from bertsmith.training import engine
from bertsmith.training.fit import fitting_micro_batch, made_up_batch
from bertsmith.training.optimizer import make_optimizers
from bertsmith.training.parallel import Parallel
from bertsmith.training.step import StepResult, train_step
from tests.support.gpu import (
    LONG,
    SHAPE,
    SHORT,
    Finding,
    digest,
    pretrain,
    told_of_waiting,
    waits_in,
)
from tests.support.objective import OBJECTIVE
from tests.support.runs import result_of
from tests.support.stores import make_batches

pytestmark = pytest.mark.gpu


def logged_losses(run: Path) -> list[float]:
    return [line["mlm_loss"] for line in read_metrics(run) if "learning_rate" in line]


@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
@pytest.mark.parametrize("shape", [SHORT, LONG], ids=["64", "256"])
def test_a_run_repeats_itself(
    shape: dict[str, Any],
    attention_dropout: float,
    corpus: Path,
    tmp_path: Path,
    device: torch.device,
    finding: Finding,
) -> None:
    runs = [
        pretrain(
            corpus,
            tmp_path / name,
            device,
            attention_probs_dropout_prob=attention_dropout,
            **shape,
        )
        for name in ("a", "b")
    ]
    losses = [logged_losses(run) for run in runs]
    same = next((i for i, pair in enumerate(zip(*losses, strict=True)) if pair[0] != pair[1]), None)
    is_one = digest(runs[0]) == digest(runs[1])
    differs = "none" if same is None else same + 1
    finding(f"one hash: {is_one}; first step whose loss differs: {differs}")
    assert is_one


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(
    optimizer: str,
    corpus: Path,
    tmp_path: Path,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {**SHORT, "optimizer": optimizer, "log_every": 5}
    whole = pretrain(corpus, tmp_path / "whole", device, **settings)
    plain, calls = train_step, 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 16:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments, **options)

    run = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_step", counted)
        with pytest.raises(RunStopped):
            pretrain(corpus, run, device, **settings)
    assert [path.name for path in list_checkpoints(run)] == ["step-00000015"]
    bertsmith.pretrain(output=run, resume=True, quiet=True)
    assert result_of(run) == result_of(whole)


def test_losses_are_those_of_a_cpu(
    corpus: Path, tmp_path: Path, device: torch.device, finding: Finding
) -> None:
    """Ten steps of float32 from one seed; Adam divides rounding errors by small gradients."""
    settings = {**SHORT, "steps": 10, "precision": "float32"}
    here = pretrain(corpus, tmp_path / "here", device, **settings)
    there = pretrain(corpus, tmp_path / "there", torch.device("cpu"), **settings)
    found, expected = logged_losses(here), logged_losses(there)
    assert len(found) == 10
    worst = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    finding(f"losses of ten steps differ by {worst:.2e} at most")
    assert worst <= 3e-3


@pytest.mark.parametrize("micro_batch", [100_000, 600], ids=["whole", "micro-batches"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
def test_no_step_waits_for_the_device(
    attention_dropout: float,
    optimizer: str,
    micro_batch: int,
    device: torch.device,
    long_store: TokenStore,
    long_tokenizer: Tokenizer,
    finding: Finding,
) -> None:
    """Warnings rather than errors, since they tell every place that waits and not the first one."""
    settings = {"attention_probs_dropout_prob": attention_dropout, "optimizer": optimizer}
    config = resolve(overrides={**SHAPE, **settings})
    model = build(config.model, long_tokenizer.vocab_size)
    model.initialize(0)
    parallel = Parallel(model.to(device), OBJECTIVE, ALONE, "ddp", device)
    optimizers = make_optimizers(model, config.training)
    made = make_batches(long_store, long_tokenizer, max_length=64)
    batches = [made.batch(number) for number in range(8)]
    if device.type == "cuda":  # as `BatchesAhead` has them
        batches = [pinned(batch) for batch in batches]

    def step(number: int) -> StepResult:
        optimizers.set_rate(0.5)
        return train_step(
            parallel,
            optimizers,
            batches[number],
            micro_batch=micro_batch,
            max_grad_norm=1.0,
            dropout_key=number,
            device=device,
            autocast=lambda: autocast(device, "auto"),
        )

    for number in range(3):
        step(number)
    with warnings.catch_warnings(record=True) as told, told_of_waiting(device):
        warnings.simplefilter("always")
        results = [step(number) for number in range(3, 8)]
    waits = waits_in(told)
    finding(f"waits in five steps: {dict(waits) or 'none'}")
    assert all(bool(result.is_finite) for result in results)
    assert not waits


@pytest.mark.parametrize("gigabytes", [None, 2.0], ids=["all memory", "2 GB"])
@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
def test_the_micro_batch_that_is_found_fits(
    attention_dropout: float, gigabytes: float | None, device: torch.device, finding: Finding
) -> None:
    if gigabytes is not None and device.type != "cuda":
        pytest.skip("only of a GPU can the memory be filled up")
    vocabulary, length, most = 8000, 128, TOKENS_AT_ONCE[device.type]
    settings = {
        "max_length": length,
        "batch_size": 2 * most // length,
        "attention_probs_dropout_prob": attention_dropout,
    }
    config = resolve(preset="mini", overrides=settings)
    model = build(config.model, vocabulary)
    model.initialize(0)
    parallel = Parallel(model.to(device), OBJECTIVE, ALONE, "ddp", device)
    with only(gigabytes, device) as taken:
        found = fitting_micro_batch(parallel, config, device, lambda: autocast(device, "auto"))
        result = train_step(
            parallel,
            make_optimizers(model, config.training),
            made_up_batch(config, vocabulary, 2 * found // length),
            micro_batch=found,
            max_grad_norm=1.0,
            dropout_key=0,
            device=device,
            autocast=lambda: autocast(device, "auto"),
        )
        peak = peak_bytes(device) - taken
    finding(f"{found:,} of {most:,} tokens at once; {peak / 1e9:.2f} GB at most")
    assert result.micro_batch == found, "it must fit at the first try"
    assert found == most if gigabytes is None else length <= found < most


@contextmanager
def only(gigabytes: float | None, device: torch.device) -> Iterator[int]:
    """Inside, no more of the GPU's memory is free; gives the bytes that are taken away."""
    if gigabytes is None:
        yield 0
        return
    torch.cuda.empty_cache()
    taken = max(0, int(torch.cuda.mem_get_info(device)[0] - gigabytes * 1e9))
    ballast = torch.empty(taken, dtype=torch.uint8, device=device)
    try:
        yield taken
    finally:
        ballast.untyped_storage().resize_(0)  # a failed test's frame would hold on to it
        torch.cuda.empty_cache()
