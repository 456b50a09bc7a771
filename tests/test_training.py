"""Steps, schedules, budgets, and evaluation."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from bertsmith.architectures.bert.network import Bert
from bertsmith.batch import Batch
from bertsmith.config import BertConfig, DataConfig, TrainingConfig
from bertsmith.data.store import TokenStore
from bertsmith.evaluation.held_out import evaluate, evaluation_batches
from bertsmith.ranks import ALONE
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.budget import Budget, Spent, is_due
from bertsmith.training.optimizer import Optimizers, make_optimizers, rate_share
from bertsmith.training.parallel import Parallel
from bertsmith.training.step import StepResult, train_step
from tests.support.objective import OBJECTIVE
from tests.support.stores import make_batches

CPU = torch.device("cpu")


def step(model: Bert, batch: Batch, micro_batch: int, **options: float) -> StepResult:
    optimizers = make_optimizers(model, TrainingConfig(learning_rate=0.01, **options))  # type: ignore[arg-type]
    return train_step(
        Parallel(model, OBJECTIVE, ALONE, "ddp", CPU),
        optimizers,
        batch,
        micro_batch=micro_batch,
        max_grad_norm=options.get("max_grad_norm", 1.0),
        dropout_key=0,
        device=CPU,
        autocast=nullcontext,
    )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_micro_batches_change_nothing_but_rounding(
    size: int, dropout: float, tiny_config: BertConfig, store: TokenStore, tokenizer: Tokenizer
) -> None:
    batch = make_batches(store, tokenizer).batch(0)
    config = replace(tiny_config, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    one, other = (Bert(config, tokenizer.vocab_size).double() for _ in range(2))
    one.initialize(3)
    other.load_state_dict(one.state_dict())
    whole, parts = step(one, batch, 10_000), step(other, batch, size)
    torch.testing.assert_close(whole.losses, parts.losses, rtol=1e-6, atol=1e-6)
    # Adam's first step is the sign of a gradient: those that are nothing but rounding have none.
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        if not name.endswith("qkv.bias"):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


def test_clipping_bounds_the_gradient(
    tiny_model: Bert, store: TokenStore, tokenizer: Tokenizer
) -> None:
    batch = make_batches(store, tokenizer).batch(0)
    norms = []
    tiny_model.register_forward_hook(lambda *_: None)
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=0.0, fused=True)
    optimizer.register_step_pre_hook(
        lambda opt, *_: norms.append(
            float(
                torch.nn.utils.get_total_norm(
                    p.grad for p in tiny_model.parameters() if p.grad is not None
                )
            )
        )
    )
    found = [
        train_step(
            Parallel(tiny_model, OBJECTIVE, ALONE, "ddp", CPU),
            Optimizers(optimizer),
            batch,
            micro_batch=8,
            max_grad_norm=bound,
            dropout_key=0,
            device=CPU,
            autocast=nullcontext,
        )
        for bound in (0.0, 0.01)
    ]
    assert norms[0] == pytest.approx(float(found[0].grad_norm))
    assert norms[1] == pytest.approx(0.01, rel=1e-3)
    assert float(found[1].grad_norm) == pytest.approx(norms[0])


def test_a_step_that_is_not_finite_leaves_the_weights(
    tiny_model: Bert, store: TokenStore, tokenizer: Tokenizer
) -> None:
    tiny_model.embeddings.norm.weight.data[0] = float("nan")
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    assert not step(tiny_model, make_batches(store, tokenizer).batch(0), 8).is_finite
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


def test_weight_decay_is_for_matrices(tiny_model: Bert) -> None:
    (adam,) = make_optimizers(tiny_model, TrainingConfig(weight_decay=0.1)).parts
    matrices, vectors = adam.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim == 1 for p in vectors["params"])
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(tiny_model.parameters()))


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("linear", [0.0, 0.5, 1.0, 0.5, 0.0]),
        ("cosine", [0.0, 0.5, 1.0, 0.5, 0.0]),
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_the_rate_rises_and_falls(kind: Any, rates: list[float]) -> None:
    config = TrainingConfig(lr_scheduler_type=kind, warmup_ratio=0.2)
    found = [rate_share(config, progress) for progress in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert found == pytest.approx(rates)
    assert rate_share(replace(config, warmup_ratio=0.0), 0.0) == 1.0
    quarter = rate_share(config, 0.4)
    assert quarter == pytest.approx(
        {"linear": 0.75, "cosine": 0.854, "constant": 1}[kind], abs=1e-3
    )


@pytest.mark.parametrize("decay", [0.1, 0.25, 1.0])
def test_the_rate_stays_and_then_falls(decay: float) -> None:
    config = TrainingConfig(
        lr_scheduler_type="warmup_stable_decay", warmup_ratio=0.1, decay_ratio=decay
    )
    found = [rate_share(config, number / 20) for number in range(21)]
    assert found[:3] == pytest.approx([0.0, 0.5, min(1.0, 0.9 / decay)])
    assert found[-1] == 0.0
    falls = [number for number in range(2, 20) if found[number + 1] < found[number] - 1e-9]
    assert falls == [number for number in range(2, 20) if number / 20 >= 1 - decay - 1e-9]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"steps": 7}, Budget("steps", 7)),
        ({"epochs": 1.5}, Budget("steps", 15)),
        ({"pairs": 41}, Budget("steps", 5)),
        ({"tokens": 900}, Budget("tokens", 900)),
        ({"minutes": 0.5}, Budget("seconds", 30)),
    ],
)
def test_budgets(budget: dict[str, Any], expected: Budget) -> None:
    assert Budget.of(TrainingConfig(batch_size=10, **budget), num_pairs=100) == expected
    half = Spent(step=4, tokens=450, seconds=15.0)
    assert 0.2 < expected.progress(half) <= 0.8
    assert expected.progress(Spent(step=99, tokens=999, seconds=99.0)) == 1.0


def test_what_is_due() -> None:
    assert [s for s in range(1, 9) if is_due(3, 4, Spent(step=s), 0, 0)] == [3, 6]
    due = [s for s in range(1, 21) if is_due(None, 4, Spent(step=s), (s - 1) / 20, s / 20)]
    assert due == [5, 10, 15, 20]
    for times, steps in ((22, 176), (23, 23), (40, 200)):  # 22 * (8k / 176) is a little under k
        due = [
            s
            for s in range(1, steps + 1)
            if is_due(None, times, Spent(step=s), (s - 1) / steps, s / steps)
        ]
        assert due == [
            s for s in range(1, steps + 1) if s * times // steps > (s - 1) * times // steps
        ]


def test_evaluation_is_fixed_and_counts_rightly(
    tiny_model: Bert, store: TokenStore, tokenizer: Tokenizer
) -> None:
    batches = evaluation_batches(store, tokenizer, DataConfig(max_length=24))
    assert batches is not None
    tiny_model.train()
    first, again = (
        evaluate(tiny_model, OBJECTIVE, batches, device=CPU, micro_batch=size) for size in (3, 50)
    )
    assert tiny_model.training
    assert first.num_pairs == batches.num_examples
    assert first.figures["mlm_accuracy"] == again.figures["mlm_accuracy"]
    assert first.figures["mlm_loss"] == pytest.approx(again.figures["mlm_loss"], rel=1e-5)
    one = evaluate(tiny_model, OBJECTIVE, batches, device=CPU, micro_batch=8, most_pairs=5)
    assert one.num_pairs == 5
    assert first.figures["nsp_accuracy"] is not None
    assert 0 <= first.figures["nsp_accuracy"] <= 1
