"""What fits in memory: counted, tried, and lowered when it was too much."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from bertsmith.config import ModelConfig, PretrainConfig, TrainingConfig, resolve
from bertsmith.data.batches import Batch
from bertsmith.data.store import TokenStore
from bertsmith.errors import DeviceError
from bertsmith.model.bert import Bert
from bertsmith.model.memory import (
    MicroBatch,
    activation_bytes,
    bytes_of_optimizer,
    bytes_of_parameters,
    empty_model,
)
from bertsmith.ranks import ALONE
from bertsmith.tokenizer import Tokenizer
from bertsmith.training import fit
from bertsmith.training.fit import fitting_micro_batch, largest
from bertsmith.training.optimizer import make_optimizers
from bertsmith.training.parallel import Parallel
from bertsmith.training.step import StepResult, train_step
from tests.test_data import make_batches

CPU = torch.device("cpu")
VOCABULARY = 500
OPTIMIZERS: tuple[Literal["muon", "adamw"], ...] = ("muon", "adamw")


def a_config(**settings: Any) -> PretrainConfig:
    usual = {"max_length": 32, "batch_size": 64, "num_hidden_layers": 3, "device": "cpu"}
    return resolve(preset="mini", overrides={**usual, **settings})


def kept(config: PretrainConfig, num_sequences: int) -> int:
    """Bytes that a forward pass keeps."""
    model = Bert(config.model, VOCABULARY)
    model.initialize(0)
    model.recomputes = config.training.recompute
    parallel = Parallel(model, ALONE, "ddp", CPU)
    return fit._Trial(parallel, config, CPU, nullcontext, 1).bytes_of(num_sequences)


@pytest.mark.parametrize("act", ["gelu", "relu"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_are_what_autograd_keeps(act: str, dropout: float) -> None:
    config = a_config(
        hidden_act=act, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    for number in (1, 8):
        batch = MicroBatch(num_sequences=number, length=32, num_masked=round(0.3 * 32))
        counted = activation_bytes(config.model, VOCABULARY, batch)
        assert counted == pytest.approx(kept(config, number), rel=0.03)


def test_recomputing_keeps_little() -> None:
    usual, less = (kept(a_config(recompute=on, num_hidden_layers=8), 8) for on in (False, True))
    assert less < usual / 5


def test_moments_are_counted() -> None:
    for optimizer in OPTIMIZERS:
        training = TrainingConfig(optimizer=optimizer)
        model = Bert(a_config().model, VOCABULARY)
        optimizers = make_optimizers(model, training)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizers.step(torch.zeros(()))
        taken = sum(
            value.numel() * value.element_size()
            for parameter in model.parameters()
            for name, value in optimizers.state_of(parameter).items()
            if name != "step"
        )
        assert bytes_of_optimizer(model, training) == taken
        assert bytes_of_parameters(empty_model(a_config().model, VOCABULARY)) == sum(
            4 * parameter.numel() for parameter in model.parameters()
        )


def costs(first: int, each: int, memory: int) -> Callable[[int], int]:
    def measure(number: int) -> int:
        if first + each * number > memory:
            raise torch.OutOfMemoryError
        return first + each * number

    return measure


@pytest.mark.parametrize(
    ("free", "most", "expected"),
    [(1000, 50, 50), (1000, 500, 90), (125, 50, 2), (115, 50, 1), (105, 50, 0), (100, 50, 0)],
)
def test_the_largest_that_fits_lies_on_the_line(free: int, most: int, expected: int) -> None:
    assert largest(costs(100, 10, free), free=free, most=most, confirms=False) == expected


def test_what_does_not_fit_after_all_is_halved() -> None:
    # More than the line says, as of a cache that is filled.
    assert largest(costs(100, 10, 1000), free=4000, most=500, confirms=True) == 48


@pytest.mark.parametrize(("free", "expected"), [(10**12, 64 * 32), (2 * 10**7, None), (10**6, 0)])
def test_a_run_takes_what_fits(
    free: int, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = a_config(hidden_size=64, num_attention_heads=1, intermediate_size=256)
    model = Bert(config.model, VOCABULARY)
    model.initialize(0)
    monkeypatch.setattr(fit, "free_memory", lambda device: free)
    parallel = Parallel(model, ALONE, "ddp", CPU)
    if expected == 0:
        with pytest.raises(DeviceError, match="One sequence of 32 tokens does not fit"):
            fitting_micro_batch(parallel, config, CPU, nullcontext)
        return
    found = fitting_micro_batch(parallel, config, CPU, nullcontext)
    assert found % 32 == 0
    assert found == expected if expected else 32 <= found < 64 * 32
    assert all(parameter.grad is None for parameter in model.parameters())


def test_memory_of_this_machine() -> None:
    assert (fit.free_memory(CPU) or 0) > 2**20
    assert fit.free_memory(torch.device("mps")) is None


class Full:
    """A memory for so many tokens at once."""

    def __init__(self, model: Bert, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []
        losses = model.losses

        def with_limit(batch: Batch, dropout_key: int | None = None) -> Any:
            self.asked.append(batch.num_tokens)
            if batch.num_tokens > most:
                raise torch.OutOfMemoryError("no room")
            return losses(batch, dropout_key)

        monkeypatch.setattr(model, "losses", with_limit)


def one_step(model: Bert, batch: Batch, micro_batch: int) -> StepResult:
    return train_step(
        Parallel(model, ALONE, "ddp", CPU),
        make_optimizers(model, TrainingConfig()),
        batch,
        micro_batch=micro_batch,
        max_grad_norm=1.0,
        dropout_key=0,
        device=CPU,
        autocast=nullcontext,
    )


def test_a_step_that_does_not_fit_is_done_in_smaller_parts(
    tiny_config: ModelConfig,
    store: TokenStore,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = make_batches(store, tokenizer).batch(0)
    one, other = (Bert(tiny_config, tokenizer.vocab_size).double() for _ in range(2))
    one.initialize(3)
    other.load_state_dict(one.state_dict())
    full = Full(other, 100, monkeypatch)
    plain, lowered = one_step(one, batch, 100), one_step(other, batch, 1000)
    assert max(full.asked) > 100
    assert lowered.micro_batch == 62  # 1000, 500, 250, 125, 62
    torch.testing.assert_close(plain.losses, lowered.losses)
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_sequence_that_does_not_fit_alone_is_said(
    tiny_model: Bert, store: TokenStore, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [parameter.detach().clone() for parameter in tiny_model.parameters()]
    Full(tiny_model, 3, monkeypatch)
    with pytest.raises(DeviceError, match="lower --micro-batch, or give --recompute"):
        one_step(tiny_model, make_batches(store, tokenizer).batch(0), 1000)
    for value, parameter in zip(before, tiny_model.parameters(), strict=True):
        assert torch.equal(value, parameter)
        assert parameter.grad is None


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_changes_no_number(
    dropout: float, tiny_config: ModelConfig, store: TokenStore, tokenizer: Tokenizer
) -> None:
    batch = make_batches(store, tokenizer).batch(0)
    config = replace(tiny_config, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    found: list[list[Tensor]] = []
    for recomputes in (False, True):
        model = Bert(config, tokenizer.vocab_size)
        model.initialize(3)
        model.recomputes = recomputes
        losses = model.losses(batch, 5)
        (losses.mlm + losses.nsp).backward()
        found.append([losses.mlm, *(p.grad for p in model.parameters() if p.grad is not None)])
    for plain, again in zip(*found, strict=True):
        assert torch.equal(plain, again)
