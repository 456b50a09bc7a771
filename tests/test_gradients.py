"""The fast path against the plain one: padded, all logits, ignored positions, another library.

`transformers` computes the reference, with attention written out. The bounds are on the norm of the
difference over the norm of the gradient, for each parameter.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertForPreTraining

from bertsmith.architectures.bert import network
from bertsmith.architectures.bert.network import Bert
from bertsmith.batch import Batch
from bertsmith.data.store import TokenStore
from bertsmith.nn import attention
from bertsmith.nn.dropout import DropoutKey
from bertsmith.nn.layout import Layout, PackedInput
from bertsmith.saved.hugging_face import to_hugging_face
from bertsmith.tokenizer import Tokenizer
from tests.support.gradients import assert_same_gradients
from tests.support.objective import BERT, losses_of
from tests.support.stores import make_batches

CPU = torch.device("cpu")


@pytest.fixture
def batch(store: TokenStore, tokenizer: Tokenizer) -> Batch:
    return make_batches(store, tokenizer).batch(0)


@pytest.fixture
def reference(tiny_model: Bert) -> BertForPreTraining:
    """The same weights in `transformers`."""
    names = (
        "hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
        "max_position_embeddings layer_norm_eps"
    ).split()
    shape: dict[str, Any] = {name: getattr(tiny_model.config, name) for name in names}
    shape.update(vocab_size=tiny_model.vocab_size, attn_implementation="eager")
    config = BertConfig(**shape)
    theirs = BertForPreTraining(config).eval()
    missing = theirs.load_state_dict(
        to_hugging_face(tiny_model.state_dict(), BERT), strict=False
    ).missing_keys
    assert not [name for name in missing if "decoder" not in name]
    theirs.tie_weights()
    return theirs


def plain_gradients(model: nn.Module, batch: Batch, dtype: torch.dtype) -> dict[str, Tensor]:
    """Padded, logits everywhere, `F.cross_entropy` with ignored positions."""
    layout = Layout.of(batch.lengths, CPU)
    labels = torch.full_like(batch.input_ids, -100)
    labels[batch.masked_positions] = batch.masked_labels

    def pad(packed: Tensor, filler: int = 0) -> Tensor:
        return layout.pad((packed - filler)[:, None]).squeeze(2) + filler

    found = model.to(dtype)(
        input_ids=pad(batch.input_ids),
        token_type_ids=pad(batch.token_type_ids),
        attention_mask=pad(torch.ones_like(batch.input_ids)),
    )
    loss = F.cross_entropy(found.prediction_logits.flatten(0, 1), pad(labels, -100).flatten())
    loss = loss + F.cross_entropy(found.seq_relationship_logits, batch.sequence_labels)
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def fast_gradients(model: Bert, batch: Batch) -> dict[str, Tensor]:
    """By their names in `transformers`."""
    model.zero_grad()
    losses = losses_of(model, batch)
    (losses.mlm / batch.num_masked + losses.nsp / batch.num_sequences).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return to_hugging_face(gradients, BERT)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_gradients_of_a_batch_and_of_each_sample_are_the_plain_ones(
    dtype: torch.dtype,
    bound: float,
    tiny_model: Bert,
    reference: nn.Module,
    batch: Batch,
) -> None:
    for sample in [batch, *list(batch.split(1))[::3]]:
        found = fast_gradients(tiny_model.to(dtype), sample)
        assert_same_gradients(found, plain_gradients(reference, sample, dtype), bound)


class _Shapes(TorchDispatchMode):
    """Remembers the shape of whatever an operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        outputs = found if isinstance(found, tuple | list) else [found]
        self.seen += [tuple(x.shape) for x in outputs if isinstance(x, Tensor)]
        return found


def test_a_step_makes_no_logits_of_unmasked_tokens_and_no_padded_hidden_state(
    tiny_model: Bert, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded_in_attention: list[bool] = []
    shapes = _Shapes()
    hidden = tiny_model.config.hidden_size
    grid = (batch.num_sequences, max(batch.lengths))
    kernel = attention.attend

    def marked(*args: Any, **places: Any) -> Tensor:
        before = len(shapes.seen)
        out = kernel(*args, **places)
        padded_in_attention.append((*grid, hidden) in shapes.seen[before:])
        del shapes.seen[before:]
        return out

    monkeypatch.setattr(network, "attend", marked)
    with shapes:
        losses_of(tiny_model, batch)
    rows = {shape[0] for shape in shapes.seen if shape[1:] == (tiny_model.vocab_size,)}
    assert rows - {hidden} == {batch.num_masked}  # [H, V] is the matrix, turned
    assert all(padded_in_attention), "the test must see a grid where there is one"
    cells = grid[0] * grid[1]
    assert cells > batch.num_tokens, "the batch must have padding to avoid"
    elements = {math.prod(shape) for shape in shapes.seen}
    for width in (hidden, 3 * hidden, tiny_model.config.intermediate_size):
        assert cells * width not in elements


def test_the_last_layer_makes_what_the_heads_read(tiny_model: Bert, batch: Batch) -> None:
    made: list[int] = []
    for layer in tiny_model.layers:
        layer.register_forward_hook(lambda layer, given, out: made.append(len(out)))
    losses_of(tiny_model, batch)
    *before, last = made
    assert set(before) == {batch.num_tokens}
    assert last == batch.num_masked + batch.num_sequences < batch.num_tokens


def test_dropout_is_the_same_where_the_last_layer_makes_all(tiny_model: Bert, batch: Batch) -> None:
    config = replace(tiny_model.config, hidden_dropout_prob=0.4, attention_probs_dropout_prob=0.4)
    model, key = Bert(config, tiny_model.vocab_size), 77
    model.load_state_dict(tiny_model.state_dict())
    some = losses_of(model, batch, key)
    noise = DropoutKey(key, torch.arange(batch.num_tokens))
    layout = Layout(batch.lengths, batch.cu_seqlens)
    ids, types, positions = batch.input_ids, batch.token_type_ids, batch.position_ids
    hidden = model(PackedInput(ids, types, positions, layout, noise))
    logits = model.mlm_logits(hidden[batch.masked_positions])
    mlm = F.cross_entropy(logits, batch.masked_labels, reduction="sum")
    scores = model.nsp_logits(model.pool(hidden[batch.cu_seqlens[:-1].long()]))
    nsp = F.cross_entropy(scores, batch.sequence_labels, reduction="sum")
    torch.testing.assert_close(torch.stack(some), torch.stack([mlm, nsp]))
    undropped = losses_of(model, batch).mlm
    assert not torch.isclose(undropped, mlm, rtol=1e-4), "dropout must be on"
