"""What fits in memory: counted, tried, and lowered when it was too much."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from bertsmith.architectures import MicroBatch, architecture_of, build
from bertsmith.architectures.bert.network import Bert
from bertsmith.batch import Batch
from bertsmith.config import BertConfig, PretrainConfig, TrainingConfig, resolve
from bertsmith.data.store import TokenStore
from bertsmith.errors import DeviceError
from bertsmith.objectives import Objective
from bertsmith.objectives.mlm import MaskedLM
from bertsmith.objectives.mlm_nsp import MaskedLMAndNextSentence
from bertsmith.ranks import ALONE
from bertsmith.tokenizer import Tokenizer
from bertsmith.training import fit
from bertsmith.training.fit import fitting_micro_batch, largest
from bertsmith.training.memory import (
    bytes_of_optimizer,
    bytes_of_parameters,
    empty_model,
)
from bertsmith.training.optimizer import make_optimizers
from bertsmith.training.parallel import Parallel
from bertsmith.training.step import StepResult, train_step
from tests.support.objective import BERT, OBJECTIVE, Losses, losses_of
from tests.support.stores import make_batches

CPU = torch.device("cpu")
VOCABULARY = 500
OPTIMIZERS: tuple[Literal["muon", "adamw"], ...] = ("muon", "adamw")


def a_config(**settings: Any) -> PretrainConfig:
    usual = {"max_length": 32, "batch_size": 64, "num_hidden_layers": 3, "device": "cpu"}
    return resolve(preset="mini", overrides={**usual, **settings})


def kept(config: PretrainConfig, num_sequences: int, objective: Objective = OBJECTIVE) -> int:
    """Bytes that a forward pass keeps."""
    model = build(config.model, VOCABULARY)
    model.initialize(0)
    model.recomputes = config.training.recompute
    parallel = Parallel(model, objective, ALONE, "ddp", CPU)
    return fit._Trial(parallel, config, CPU, nullcontext, 1).bytes_of(num_sequences)


@pytest.mark.parametrize("act", ["gelu", "relu"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_are_what_autograd_keeps(act: str, dropout: float) -> None:
    config = a_config(
        hidden_act=act, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    for number in (1, 8):
        masked = round(32 * config.data.mlm_probability)
        batch = MicroBatch(num_sequences=number, length=32, num_masked=masked)
        counted = BERT.activation_bytes(config.model, VOCABULARY, batch)
        assert counted == pytest.approx(kept(config, number), rel=0.03)


def test_recomputing_keeps_little() -> None:
    usual, less = (kept(a_config(recompute=on, num_hidden_layers=8), 8) for on in (False, True))
    assert less < usual / 5


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("kind", "is_half"), [("cpu", False), ("cuda", True), ("cuda", False)])
def test_scores_are_counted_where_they_are_kept(kind: str, is_half: bool, dropout: float) -> None:
    model = a_config(attention_probs_dropout_prob=dropout).model
    for length in (512, 1024):
        model = replace(model, max_position_embeddings=length)
        batch = MicroBatch(
            num_sequences=1, length=length, num_masked=1, device_type=kind, is_half=is_half
        )
        keeps = bool(dropout) or (kind == "cpu" and length <= 512)
        scores = model.num_attention_heads * length**2
        found = BERT.layer_bytes(model, batch)
        undropped = model.with_dropout(0.0)
        rest = BERT.layer_bytes(undropped, replace(batch, device_type="mps"))
        assert found - rest == keeps * scores * (2 if is_half else 4) + bool(dropout) * scores


def test_moments_are_counted() -> None:
    for optimizer in OPTIMIZERS:
        training = TrainingConfig(optimizer=optimizer)
        model = build(a_config().model, VOCABULARY)
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
        assert bytes_of_parameters(empty_model(a_config().model, VOCABULARY, OBJECTIVE)) == sum(
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
    measure = costs(100, 10, free)
    assert largest(measure, free=free, most=most, several=2, confirms=False) == expected


def test_what_does_not_fit_after_all_is_lowered() -> None:
    # More than the line says, as of a cache that is filled.
    measure = costs(100, 10, 1000)
    found = largest(measure, free=4000, most=500, several=8, confirms=True)
    assert found == 69  # 390 by the line, 292, 219, 164, 123, 92
    # It is there, but is to be left free.
    bent = lambda number: 100 + 10 * number + (500 if number > 8 else 0)  # noqa: E731
    assert largest(bent, free=1000, most=500, several=8, confirms=True) == 37  # 90, 67, 50


def test_where_eight_do_not_fit_fewer_give_the_line() -> None:
    assert largest(costs(100, 100, 500), free=500, most=50, several=8, confirms=True) == 4


def test_the_rank_with_least_memory_decides() -> None:
    asked = []

    def least(number: int) -> int:
        asked.append(number)
        return min(number, 20)  # another rank's answer

    measure = costs(0, 10, 1000)
    assert largest(measure, free=1000, most=50, several=8, confirms=True, least=least) == 20
    assert asked == [50, True]


@pytest.mark.parametrize(("free", "expected"), [(10**12, 64 * 32), (2 * 10**7, None), (10**6, 0)])
def test_a_run_takes_what_fits(
    free: int, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = a_config(hidden_size=64, num_attention_heads=1, intermediate_size=256)
    model = build(config.model, VOCABULARY)
    model.initialize(0)
    monkeypatch.setattr(fit, "free_memory", lambda device: free)
    parallel = Parallel(model, OBJECTIVE, ALONE, "ddp", CPU)
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


def test_bounds_on_a_process_are_found_up_to_the_root(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("3:cpuset:/\n0::/job/step\n")
    for name, limit in (("job", "max"), ("job/step", "1000"), ("", "5000")):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "memory.max").write_text(f"{limit}\n")
        (root / name / "memory.current").write_text("700\n")
        (root / name / "memory.stat").write_text("anon 400\ninactive_file 200\nfile 300\n")
    (tmp_path / "memory.max").write_text("1\n")  # not theirs
    assert fit.left_by_control_groups(own, root) == [500, 4500]
    own.write_text("4:memory:/job\n")
    assert fit.left_by_control_groups(own, root) == [4500]
    assert fit.left_by_control_groups(tmp_path / "none", root) == []


class Full:
    """A memory for so many tokens at once."""

    def __init__(self, model: Bert, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []

        def with_limit(model: Bert, batch: Batch, dropout_key: int | None = None) -> Any:
            self.asked.append(batch.num_tokens)
            if batch.num_tokens > most:
                raise torch.OutOfMemoryError("no room")
            return losses_of(model, batch, dropout_key)

        monkeypatch.setattr(MaskedLMAndNextSentence, "losses", staticmethod(with_limit))


def one_step(model: Bert, batch: Batch, micro_batch: int) -> StepResult:
    return train_step(
        Parallel(model, OBJECTIVE, ALONE, "ddp", CPU),
        make_optimizers(model, TrainingConfig()),
        batch,
        micro_batch=micro_batch,
        max_grad_norm=1.0,
        dropout_key=0,
        device=CPU,
        autocast=nullcontext,
    )


def test_a_step_that_does_not_fit_is_done_in_smaller_parts(
    tiny_config: BertConfig,
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


class _Fails(torch.autograd.Function):
    """Lets the backward pass run out of memory."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("no room")


def test_what_a_failed_pass_kept_is_let_go_before_the_next(
    tiny_model: Bert, store: TokenStore, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Tensor]] = []
    left: list[Tensor | None] = []

    def failing_once(model: Bert, batch: Batch, dropout_key: int | None = None) -> Losses:
        left.extend(reference() for reference in held)
        found = losses_of(model, batch, dropout_key)
        if held:
            return found
        kept = _Fails.apply(found.mlm)
        held.append(weakref.ref(kept))
        return Losses(kept, found.nsp)

    monkeypatch.setattr(MaskedLMAndNextSentence, "losses", staticmethod(failing_once))
    batch = make_batches(store, tokenizer).batch(0)
    assert one_step(tiny_model, batch, 1000).micro_batch < 1000
    assert left
    assert not any(kept is not None for kept in left)


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
    dropout: float, tiny_config: BertConfig, store: TokenStore, tokenizer: Tokenizer
) -> None:
    batch = make_batches(store, tokenizer).batch(0)
    config = replace(tiny_config, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    found: list[list[Tensor]] = []
    for recomputes in (False, True):
        model = Bert(config, tokenizer.vocab_size)
        model.initialize(3)
        model.recomputes = recomputes
        losses = losses_of(model, batch, 5)
        (losses.mlm + losses.nsp).backward()
        found.append([losses.mlm, *(p.grad for p in model.parameters() if p.grad is not None)])
    for plain, again in zip(*found, strict=True):
        assert torch.equal(plain, again)


@pytest.mark.parametrize("length", [32, 300])
@pytest.mark.parametrize("layers", [4, 6])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("act", ["gelu", "relu"])
def test_activations_of_modernbert_are_what_autograd_keeps(
    act: str, dropout: float, layers: int, length: int
) -> None:
    """Its last layer is global with four layers and local with six."""
    config = resolve(
        overrides={
            "architecture": "modernbert",
            "num_hidden_layers": layers,
            "hidden_size": 128,
            "intermediate_size": 192,
            "local_attention": 16,
            "hidden_activation": act,
            "mlp_dropout": dropout,
            "attention_dropout": dropout,
            "max_length": length,
            "device": "cpu",
        }
    )
    masked = round(length * config.data.mlm_probability)
    number = 1200 // length  # blocks of windows are filled to 64 tokens, which a few feel
    batch = MicroBatch(num_sequences=number, length=length, num_masked=masked)
    architecture = architecture_of("modernbert")
    counted = architecture.activation_bytes(config.model, VOCABULARY, batch)
    assert counted == pytest.approx(kept(config, number, MaskedLM()), rel=0.03)
