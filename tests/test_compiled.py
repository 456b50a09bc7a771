"""Micro-batches of a fixed shape and the step that is compiled for it, as a CPU shows them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bertsmith.architectures import Encoder
from bertsmith.architectures.bert.network import Bert
from bertsmith.architectures.modernbert.network import ModernBert
from bertsmith.batch import Batch
from bertsmith.config import BertConfig, ModernBertConfig, TrainingConfig, resolve
from bertsmith.data.store import TokenStore
from bertsmith.nn.dropout import DropoutKey, site_keys
from bertsmith.nn.embedding import sum_by_row
from bertsmith.objectives import objective_of
from bertsmith.ranks import ALONE
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.budget import Budget
from bertsmith.training.compiled import compiled_losses, fixed_rows
from bertsmith.training.engine import EagerEngine
from bertsmith.training.engines import _is_long, compiles, engine_for
from bertsmith.training.fixed import (
    IGNORED,
    FixedBatch,
    FixedBatches,
    FixedShape,
    constants_of,
    in_fixed_shape,
)
from bertsmith.training.muon import Muon
from bertsmith.training.optimizer import Optimizers
from bertsmith.training.parallel import Parallel
from bertsmith.training.step import clip_and_update
from tests.support.objective import OBJECTIVE, losses_of
from tests.support.stores import make_batches

KEY = 2**63 + 12345

pytestmark = pytest.mark.filterwarnings(
    # Dynamo's own, of how it traces `torch.autograd.Function` and views of a buffer.
    "ignore:.*torch.autograd.Function:DeprecationWarning",
    "ignore:.*non-leaf Tensor:UserWarning",
)


def make_batch(lengths: list[int], masks: list[int], seed: int = 0) -> Batch:
    """Any lengths, longest first, with so many masked tokens in each."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(lengths)
    positions = np.concatenate([np.arange(n) for n in lengths])
    masked = np.concatenate(
        [
            start + np.sort(rng.choice(np.arange(1, n), size=m, replace=False))
            for start, n, m in zip(ends - np.array(lengths), lengths, masks, strict=True)
        ]
    )
    # In the global batch another's tokens lie between.
    starts = ends - lengths + 3 * np.arange(len(lengths))
    return Batch(
        input_ids=torch.from_numpy(rng.integers(1, 90, ends[-1])),
        token_type_ids=torch.from_numpy(rng.integers(0, 2, ends[-1])),
        position_ids=torch.from_numpy(positions),
        cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        masked_positions=torch.from_numpy(masked.astype(np.int64)),
        masked_labels=torch.from_numpy(rng.integers(1, 90, len(masked))),
        sequence_labels=torch.from_numpy(rng.integers(0, 2, len(lengths))),
        lengths=tuple(lengths),
        num_masked_each=tuple(masks),
        starts=tuple(starts.tolist()),
    )


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    lengths = draw(st.lists(st.integers(2, 40), min_size=1, max_size=30))
    lengths.sort(reverse=True)
    masks = [draw(st.integers(0, n - 1)) for n in lengths]
    return make_batch(lengths, masks, draw(st.integers(0, 99)))


def sequences_of(batch: FixedBatch) -> list[tuple[Any, ...]]:
    """What each real sequence of the micro-batches has, as a step reads it."""
    found = []
    for buffer in batch.buffers:
        views = batch.shape.views(buffer, batch.units)
        constants = constants_of(batch.shape, views.constants)
        ids, types, positions, places, token_rows = views.tokens.flatten(1)
        masked_rows, labels = views.masked.flatten(1)
        rows, row_masks, row_firsts = views.rows
        ends, row_ends = (constants[name].tolist() for name in ("cu_seqlens", "row_cu_seqlens"))
        assert (ends[0], ends[-1], row_ends[0], row_ends[-1]) == (0, len(ids), 0, len(rows))
        assert max(np.diff(ends)) <= batch.shape.max_length >= max(np.diff(row_ends))
        assert int(positions.max()) < batch.shape.max_length
        scored = labels != IGNORED
        label_of = dict(zip(masked_rows[scored].tolist(), labels[scored].tolist(), strict=True))
        for number, pair in enumerate(constants["sequence_labels"].tolist()):
            start, end = ends[number : number + 2]
            first, last = row_ends[number : number + 2]
            own = rows[first:last]
            assert end > start or last == first, "queries must have keys"
            assert bool(((own >= start) & (own < end)).all()), "a query meets its own sequence"
            if pair == IGNORED:
                assert not set(range(first, last)) & set(label_of), "filler is not scored"
                continue
            assert token_rows[own].tolist() == list(range(first, last))
            assert row_firsts[first:last].tolist() == [number] + [-1] * (last - first - 1)
            masks = [label_of[row] for row in range(first + 1, last)]
            assert labels[row_masks[first + 1 : last]].tolist() == masks
            parts = (ids, types, positions, places)
            tokens = [part[start:end].tolist() for part in parts]
            found.append((*map(tuple, tokens), tuple((own - start).tolist()), tuple(masks), pair))
        assert int((token_rows >= 0).sum()) == int((row_masks >= 0).sum() + (row_firsts >= 0).sum())
        assert len(label_of) == int((row_masks >= 0).sum())
    return found


def expected_of(batch: Batch) -> list[tuple[Any, ...]]:
    found = []
    ends = batch.cu_seqlens.tolist()
    for number, (start, end) in enumerate(pairwise(ends)):
        own = (batch.masked_positions >= start) & (batch.masked_positions < end)
        positions = batch.position_ids[start:end]
        found.append(
            (
                tuple(batch.input_ids[start:end].tolist()),
                tuple(batch.token_type_ids[start:end].tolist()),
                tuple(positions.tolist()),
                tuple((batch.starts[number] + positions).tolist()),
                (0, *(batch.masked_positions[own] - start).tolist()),
                tuple(batch.masked_labels[own].tolist()),
                int(batch.sequence_labels[number]),
            )
        )
    return found


@given(batches(), st.integers(1, 400))
def test_every_sequence_is_there_once_and_filler_is_not_scored(batch: Batch, most: int) -> None:
    shape = FixedShape.for_batches([batch], most_tokens=most, max_length=40, sites=3)
    found = sequences_of(in_fixed_shape(batch, shape))
    assert sorted(found) == sorted(expected_of(batch))


@given(batches(), batches())
def test_a_batch_that_is_larger_than_those_seen_takes_more_micro_batches(
    seen: Batch, batch: Batch
) -> None:
    shape = FixedShape.for_batches([seen], most_tokens=300, max_length=40, sites=3)
    made = in_fixed_shape(batch, shape)
    assert made.units <= shape.most_units
    assert sorted(sequences_of(made)) == sorted(expected_of(batch))


def test_a_sequence_that_is_too_long_is_refused() -> None:
    shape = FixedShape.for_batches(
        [make_batch([8, 5], [1, 1])], most_tokens=64, max_length=8, sites=1
    )
    with pytest.raises(ValueError, match="at most 8 tokens; got 9"):
        in_fixed_shape(make_batch([9], [1]), shape)


@pytest.mark.parametrize("most_tokens", [2**17, 8192])
def test_filler_is_at_most_a_fiftieth(
    most_tokens: int, store: TokenStore, tokenizer: Tokenizer
) -> None:
    made = make_batches(store, tokenizer, batch_size=1024)
    some = [made.batch(number) for number in range(6)]
    shape = FixedShape.for_batches(some[:4], most_tokens=most_tokens, max_length=32, sites=1)
    found = [in_fixed_shape(batch, shape) for batch in some]
    there = sum(len(batch.buffers) * batch.units * shape.unit for batch in found)
    real = sum(batch.num_tokens for batch in some)
    assert 0 < FixedBatches(made, shape).filler(6) == pytest.approx((there - real) / real)
    assert there <= 1.02 * real


@pytest.mark.parametrize("key", [0, 1, 2**63, 2**64 - 1])
def test_a_key_that_is_data_gives_the_same_bits(key: int) -> None:
    tokens, keys = torch.arange(50), torch.from_numpy(site_keys(key, np.arange(7)))
    for place in range(7):
        plain = DropoutKey(key, tokens).keeps(place, tokens, 10, 0.3)
        assert torch.equal(DropoutKey(keys, tokens).keeps(place, tokens, 10, 0.3), plain)


@given(st.integers(0, 99), st.permutations(range(40)))
def test_sums_by_row_do_not_depend_on_the_order(seed: int, order: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(40, 3, generator=generator) * 10.0 ** (seed % 30 - 20)
    rows = torch.randint(0, 5, (40,), generator=generator)
    found = sum_by_row(values, rows, 6)
    exact = torch.zeros(6, 3, dtype=torch.float64).index_add_(0, rows, values.double())
    atol = float(values.abs().max()) * 2.0**-40
    torch.testing.assert_close(found.double(), exact, rtol=2**-24, atol=atol)
    assert torch.equal(sum_by_row(values[order], rows[order], 6), found)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_sum_by_row_of_what_is_not_finite_is_not(wrong: float) -> None:
    values = torch.tensor([[1.0], [wrong], [2.0]])
    assert not sum_by_row(values, torch.tensor([0, 1, 0]), 2).isfinite().any()
    assert sum_by_row(torch.zeros(2, 1), torch.tensor([0, 1]), 2).tolist() == [[0.0], [0.0]]


def rows_of(name: str) -> Any:
    return objective_of(name)


def heads_of(pairs: bool) -> frozenset[str]:
    return objective_of("mlm+nsp" if pairs else "mlm").heads


def make_modern(layers: int, dropout: float) -> ModernBert:
    """Its last layer is local with three layers, else global; with seven one between is so, too."""
    config = ModernBertConfig(
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        local_attention=8,
        mlp_dropout=dropout,
        embedding_dropout=dropout,
    )
    model = ModernBert(config, 120)
    model.initialize(0)
    return model.double().train()


def make_model(dropout: float, *, pairs: bool) -> Bert:
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
    )
    model = Bert(config, 120, heads_of(pairs))
    model.initialize(0)
    return model.double().train()


def fixed_batches(
    store: TokenStore, tokenizer: Tokenizer, objective: str, number: int, most_tokens: int = 256
) -> tuple[list[Batch], list[FixedBatch]]:
    made = make_batches(store, tokenizer, objective=objective)
    some = [made.batch(n) for n in range(number)]
    shape = FixedShape.for_batches(
        some,
        most_tokens=most_tokens,
        max_length=32,
        sites=40,
        terms=len(objective_of(objective).terms),
    )
    found = [in_fixed_shape(batch, shape) for batch in some]
    for batch in found:
        batch.set_step(KEY, objective_of(objective).denominators(batch.sizes))
    return some, found


def gradients(model: Encoder, losses: Any, batch: FixedBatch) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    total = torch.zeros(batch.shape.terms, dtype=torch.float64)
    for buffer in batch.buffers:
        views = batch.shape.views(buffer, batch.units)
        found = losses(views)
        (found / constants_of(batch.shape, views.constants)["denominators"]).sum().backward()
        total += found.detach()
    return total, [p.grad for p in model.parameters() if p.grad is not None]


def plain_gradients(model: Encoder, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    losses = losses_of(model, batch, KEY)
    (losses.mlm / batch.num_masked + losses.nsp / max(batch.num_pairs, 1)).backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    terms = losses if batch.num_pairs else losses[:1]
    return torch.stack(terms).detach(), grads


@pytest.fixture
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("objective", ["mlm+nsp", "mlm"])
def test_filled_is_unfilled(
    objective: str,
    dropout: float,
    store: TokenStore,
    tokenizer: Tokenizer,
    flash_on_cpu: list[str],
) -> None:
    """Losses and gradients, in float64, of batches in several micro-batches."""
    model = make_model(dropout, pairs=objective == "mlm+nsp")
    some, found = fixed_batches(store, tokenizer, objective, 3)
    assert max(len(batch.buffers) for batch in found) > 1
    for plain, batch in zip(some, found, strict=True):
        expected = plain_gradients(model, plain)
        mine = gradients(
            model, compiled_losses(model, rows_of(objective), batch.shape, "eager"), batch
        )
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-12)
    assert flash_on_cpu


def test_embeddings_layers_last_layer_and_heads_are_compiled_once_each(
    store: TokenStore, tokenizer: Tokenizer, flash_on_cpu: list[str], nothing_compiled: None
) -> None:
    """Fifty batches, of several sizes; values and gradients are those of the plain step."""
    model = make_model(0.2, pairs=True)
    some, found = fixed_batches(store, tokenizer, "mlm+nsp", 50, 1024)
    assert len({batch.units for batch in found}) > 1
    shape = found[0].shape
    losses = compiled_losses(model, OBJECTIVE, shape, "aot_eager")
    for number, (plain, batch) in enumerate(zip(some, found, strict=True)):
        with torch._dynamo.config.patch(error_on_recompile=number > 0):
            mine = gradients(model, losses, batch)
        torch.testing.assert_close(mine, plain_gradients(model, plain), rtol=1e-9, atol=1e-12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4
    assert flash_on_cpu


@pytest.mark.parametrize(
    ("layers", "graphs", "dropout"),
    [
        pytest.param(4, 5, 0.0, marks=pytest.mark.slow),
        pytest.param(3, 5, 0.2, marks=pytest.mark.slow),
        pytest.param(7, 6, 0.0, marks=pytest.mark.slow),
    ],
)
def test_modernbert_is_compiled_as_it_is(
    layers: int,
    graphs: int,
    dropout: float,
    store: TokenStore,
    tokenizer: Tokenizer,
    flash_on_cpu: list[str],
    nothing_compiled: None,
) -> None:
    """Its first layer, local ones, global ones and the last are graphs of their own."""
    model = make_modern(layers, dropout)
    some, found = fixed_batches(store, tokenizer, "mlm", 10, 512)
    losses = compiled_losses(model, rows_of("mlm"), found[0].shape, "aot_eager")
    for number, (plain, batch) in enumerate(zip(some, found, strict=True)):
        with torch._dynamo.config.patch(error_on_recompile=number > 0):
            mine = gradients(model, losses, batch)
        torch.testing.assert_close(mine, plain_gradients(model, plain), rtol=1e-9, atol=1e-12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert flash_on_cpu


class _Watched(TorchDispatchMode):
    """Notes each operation, and each tensor that it makes on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.on_host: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.names.append(func.name())
        outputs = found if isinstance(found, tuple | list) else [found]
        self.on_host += [
            func.name() for x in outputs if isinstance(x, Tensor) and x.device.type != "meta"
        ]
        return found


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_no_step_waits_for_a_value_or_takes_one_from_the_host(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that has no values: whoever asks for one fails; forward, back, and the update.

    PyTorch's build for a CPU cannot index a fake tensor of CUDA: it has no guard for the device.
    """
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # which it does not know
    for module in ("attention", "local_attention"):
        monkeypatch.setattr(f"bertsmith.nn.{module}.has_varlen_kernel", lambda *_: True)
    objective = rows_of("mlm+nsp" if architecture == "bert" else "mlm")
    shape = FixedShape.for_batches(
        [make_batch([30, 20, 9], [4, 2, 1])],
        most_tokens=512,
        max_length=32,
        sites=40,
        terms=len(objective.terms),
    )
    with torch.device("meta"):
        model = make_model(0.2, pairs=True) if architecture == "bert" else make_modern(4, 0.2)
        buffer = torch.empty(shape.size(shape.most_units), dtype=torch.int32)
    hidden = [dict(model.named_parameters())[name] for name in model.hidden_matrices()]
    muon = Optimizers(Muon(hidden, lr=0.01))
    with _Watched() as watched:
        rows = fixed_rows(model, shape, shape.views(buffer, shape.most_units))
        losses = torch.stack(objective.row_losses(model, rows))
        losses.sum().backward()
        clip_and_update(model, muon, losses.detach(), 1.0)
    assert not watched.on_host
    assert not {"aten::_local_scalar_dense", "aten::nonzero"} & set(watched.names)
    assert {"torch_attn::_varlen_attn", "torch_attn::_varlen_attn_backward"} <= set(watched.names)
    assert all(p.grad is not None and p.grad.is_meta for p in model.parameters())


@pytest.mark.parametrize(
    ("budget", "is_long"),
    [
        ({"steps": 1000}, True),
        ({"steps": 999}, False),
        ({"minutes": 2}, True),
        ({"minutes": 1.9}, False),
        ({"epochs": 10_000}, True),
        ({"tokens": 10**9}, True),
        ({"tokens": 10_000}, False),
    ],
)
def test_long_runs_repay_what_compiling_takes(
    budget: dict[str, Any], is_long: bool, store: TokenStore, tokenizer: Tokenizer
) -> None:
    training = TrainingConfig(batch_size=16, **budget)
    batches = make_batches(store, tokenizer)
    tokens_in_step = batches.batch(0).num_tokens
    budget_of_run = Budget.of(training, batches.num_examples)
    assert _is_long(budget_of_run, training, tokens_in_step) is is_long


def test_a_cpu_does_not_compile(store: TokenStore, tokenizer: Tokenizer) -> None:
    config = resolve(overrides={"steps": 10**6})
    device = torch.device("cpu")
    parallel = Parallel(make_model(0.0, pairs=True), OBJECTIVE, ALONE, "ddp", device)
    batches = make_batches(store, tokenizer)
    assert not compiles(parallel, config, batches, device)
    engine = engine_for(parallel, config, batches, device, micro_batch=256)
    assert isinstance(engine, EagerEngine)
