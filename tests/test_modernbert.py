"""ModernBERT: parity with `transformers`, attention in windows, rotary positions, folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    ModernBertModel,
)
from transformers.models.modernbert import modeling_modernbert as theirs_module

from bertsmith.architectures import CLASSIFIER, MLM_HEAD, architecture_of, build
from bertsmith.architectures.modernbert.network import HEAD, ModernBert
from bertsmith.batch import Batch
from bertsmith.config import PRESETS, ModernBertConfig, TrainingConfig, resolve
from bertsmith.data.store import TokenStore
from bertsmith.errors import ModelError
from bertsmith.hardware import device as device_module
from bertsmith.nn import local_attention
from bertsmith.nn import loss as loss_module
from bertsmith.nn.dropout import DropoutKey
from bertsmith.nn.layout import Layout, PackedInput
from bertsmith.nn.local_attention import Windows, attend_locally
from bertsmith.nn.rotary import Rotation, rotate_
from bertsmith.objectives.classification import SequenceClassification
from bertsmith.objectives.mlm import MaskedLM
from bertsmith.objectives.rows import last_rows, sequence_vectors
from bertsmith.saved.hugging_face import Snapshot, load_model, to_hugging_face
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.optimizer import make_optimizers
from tests.support.stores import make_batches

CPU = torch.device("cpu")
ARCHITECTURE = architecture_of("modernbert")
VOCABULARY = 100
SHAPE = ModernBertConfig(
    num_hidden_layers=5,
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=4,
    local_attention=16,
)


def rough(model: ModernBert) -> ModernBert:
    """With weights so large that attention is sharp, and with biases and norms of their own."""
    generator = torch.Generator().manual_seed(1)
    model.initialize(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def network(config: ModernBertConfig = SHAPE, *heads: str, num_labels: int = 0) -> ModernBert:
    return rough(ModernBert(config, VOCABULARY, frozenset(heads or (MLM_HEAD,)), num_labels))


def their_config(config: ModernBertConfig, **settings: Any) -> transformers.ModernBertConfig:
    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}
    ids |= {"bos_token_id": 2, "eos_token_id": 3}
    usual = {**ARCHITECTURE.write_config(config), "vocab_size": VOCABULARY, **ids}
    return transformers.ModernBertConfig(**{**usual, **settings})


def theirs_of(model: ModernBert, cls: Any = ModernBertForMaskedLM, **settings: Any) -> Any:
    """`transformers`' model with the same weights."""
    found = cls(their_config(model.config, **settings)).eval()
    weights = to_hugging_face(model.state_dict(), ARCHITECTURE)
    report = found.load_state_dict(weights, strict=False)
    assert set(report.missing_keys) <= {"decoder.weight"}, "which is tied"
    assert not report.unexpected_keys
    return found


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs turns queries and keys in float32 whatever they are; here in their own type."""

    def turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *_: Any, **__: Any) -> Any:
        cos, sin = cos[:, None], sin[:, None]
        half = theirs_module.rotate_half
        return q * cos + half(q) * sin, k * cos + half(k) * sin

    monkeypatch.setattr(theirs_module, "apply_rotary_pos_emb", turn)


def packed(lengths: Sequence[int], seed: int = 0) -> PackedInput:
    generator = torch.Generator().manual_seed(seed)
    return PackedInput(
        torch.randint(4, VOCABULARY, (sum(lengths),), generator=generator),
        torch.zeros(sum(lengths), dtype=torch.long),
        torch.cat([torch.arange(length) for length in lengths]),
        Layout.of(lengths, CPU),
    )


def assert_near(mine: Tensor | None, other: Tensor, near: float = 1e-5) -> None:
    """Within so much of the largest number."""
    largest = float(other.detach().abs().max())
    torch.testing.assert_close(mine, other, rtol=near, atol=near * largest)


def assert_equal_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def their_logits(theirs: Any, inputs: PackedInput) -> Tensor:
    """Of the real tokens, end to end."""
    layout = inputs.layout
    assert isinstance(layout, Layout)
    lengths = torch.tensor(layout.lengths)
    mask = torch.arange(layout.max_length)[None] < lengths[:, None]
    grid = layout.pad(inputs.input_ids[:, None]).squeeze(2)
    logits: Tensor = theirs(input_ids=grid, attention_mask=mask.long()).logits
    return logits[mask]


BIASES: list[dict[str, Any]] = [
    {},
    {"norm_bias": True, "mlp_bias": True},
    {"attention_bias": True, "classifier_bias": True},
]


@pytest.mark.parametrize("shape", BIASES)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_outputs_and_gradients_are_theirs(
    exact: None, shape: dict[str, Any], dtype: torch.dtype, near: float
) -> None:
    model = network(replace(SHAPE, **shape)).to(dtype).eval()
    theirs = theirs_of(model).to(dtype)
    inputs = packed([300, 129, 64, 17, 9, 8, 1])
    mine, other = model.mlm_logits(model(inputs)), their_logits(theirs, inputs)
    assert_near(mine, other, near)
    grad = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2), dtype=dtype)
    mine.backward(grad)
    other.backward(grad)
    grads = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in model.named_parameters():
        (target,) = ARCHITECTURE.hugging_face_names(name)
        assert_near(parameter.grad, grads[target], near)


@pytest.mark.parametrize("length", [8, 64, 129, 1000, pytest.param(8192, marks=pytest.mark.slow)])
def test_any_length_is_theirs(length: int) -> None:
    shape = replace(SHAPE, num_hidden_layers=2, num_attention_heads=2, local_attention=128)
    model = network(shape).eval()
    inputs = packed([length, 5] if length < 8192 else [length])
    with torch.no_grad():
        mine, other = model.mlm_logits(model(inputs)), their_logits(theirs_of(model), inputs)
    assert_near(mine, other)


def test_parameters_are_counted_alike() -> None:
    # ModernBERT-base has 149,655,232 with its own vocabulary of 50,368.
    config = ModernBertConfig(
        num_hidden_layers=22, hidden_size=768, intermediate_size=1152, num_attention_heads=12
    )
    with torch.device("meta"):
        model = build(config, 50_368)
        theirs = ModernBertForMaskedLM(transformers.ModernBertConfig())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == theirs.num_parameters() == 149_655_232


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=6),
    window=st.sampled_from([1, 3, 8, 40, 64]),
    filler=st.integers(0, 5),
)
@pytest.mark.parametrize("at_once", [1, 3], ids=["head by head", "all heads at once"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_windows_are_masked_attention(
    at_once: int,
    lengths: list[int],
    window: int,
    filler: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_attention, "heads_at_once", lambda *_: at_once)
    generator = torch.Generator().manual_seed(sum(lengths))
    count = sum(lengths)
    rows = torch.randn(3, count + filler, 12, generator=generator, dtype=torch.float64)
    rows.requires_grad_()
    windows = Windows(Layout.of(lengths, CPU), count + filler, window)
    mine = attend_locally(rows[0], rows[1], rows[2], windows, 3)[:count]
    places = torch.cat([torch.arange(length) for length in lengths])
    sequences = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    may = (sequences[:, None] == sequences) & ((places[:, None] - places).abs() <= window)
    query, key, value = rows[:, :count].unflatten(2, (3, 4)).transpose(1, 2)
    heads = F.scaled_dot_product_attention(query, key, value, attn_mask=may)
    other = heads.transpose(0, 1).flatten(1)
    torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
    grad = torch.randn(mine.shape, generator=generator, dtype=torch.float64)
    (my_grad,), (their_grad,) = (torch.autograd.grad(out, rows, grad) for out in (mine, other))
    torch.testing.assert_close(my_grad, their_grad, rtol=1e-11, atol=1e-12)


def test_heads_at_once_drop_what_each_alone_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, found = [150, 90], []
    for at_once in (1, 4):
        monkeypatch.setattr(local_attention, "heads_at_once", lambda *_, n=at_once: n)
        rows = torch.randn(3, sum(lengths), 16, generator=torch.Generator().manual_seed(0)).double()
        rows.requires_grad_()
        windows = Windows(Layout.of(lengths, CPU), sum(lengths), 16)
        key = DropoutKey(7, torch.arange(sum(lengths)))
        out = attend_locally(rows[0], rows[1], rows[2], windows, 4, 0.3, key, site=2)
        found.append((out, *torch.autograd.grad((out**2).sum(), rows)))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_dropout_goes_by_the_token_wherever_blocks_begin() -> None:
    lengths, window = [150, 90, 200], 16
    count = sum(lengths)
    rows = torch.randn(3, count, 8, generator=torch.Generator().manual_seed(0)).double()

    def attended(part: slice, lengths: list[int], key: int | None) -> Tensor:
        query, keys, value = rows[:, part]
        windows = Windows(Layout.of(lengths, CPU), len(query), window)
        tokens = None if key is None else DropoutKey(key, torch.arange(count)[part])
        return attend_locally(query, keys, value, windows, 2, 0.3, tokens, site=2)

    whole = attended(slice(count), lengths, 7)
    assert not torch.allclose(whole, attended(slice(count), lengths, None))
    first = 0
    for length in lengths:
        part = slice(first, first + length)
        torch.testing.assert_close(whole[part], attended(part, [length], 7), rtol=0, atol=1e-12)
        first += length


@pytest.mark.parametrize("theta", [10_000.0, 160_000.0])
def test_rotated_products_go_by_the_distance(theta: float) -> None:
    positions = torch.arange(9000)
    rotation = Rotation.of(positions, 16, theta, torch.float64)
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)).double()
    query, key = (rotate_(vector.repeat(9000, 1), rotation, 32) for vector in vectors)
    products = [(query[at] * key[at + 5]).sum() for at in (0, 100, 8990)]
    torch.testing.assert_close(torch.stack(products), products[0].expand(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(query.norm(dim=1), vectors[0].norm().expand(9000))


def test_rotation_has_the_gradient_of_its_formula() -> None:
    heads = torch.randn(5, 18, dtype=torch.float64, requires_grad=True)
    rotation = Rotation.of(torch.arange(5), 6, 100.0, torch.float64)
    assert torch.autograd.gradcheck(lambda x: rotate_(1 * x, rotation, 12), (heads,))


@pytest.fixture
def batch(store: TokenStore, tokenizer: Tokenizer) -> Batch:
    return make_batches(store, tokenizer, objective="mlm").batch(0)


def of_store(tokenizer: Tokenizer, **shape: Any) -> ModernBert:
    usual = {"local_attention": 8, "max_position_embeddings": 64}
    config = replace(SHAPE, **{**usual, **shape})
    return rough(ModernBert(config, tokenizer.vocab_size))


@pytest.mark.parametrize("layers", [4, 5])
def test_the_last_layer_makes_what_is_read(layers: int, batch: Batch, tokenizer: Tokenizer) -> None:
    """It is global with four layers and local with five."""
    model = of_store(tokenizer, num_hidden_layers=layers).double()
    layout = Layout(batch.lengths, batch.cu_seqlens)
    inputs = PackedInput(batch.input_ids, batch.token_type_ids, batch.position_ids, layout)
    rows = last_rows(model, batch)
    whole = model(inputs)
    for some, all_of_them in (
        (rows.masked(), whole[batch.masked_positions]),
        (rows.first(), whole[batch.cu_seqlens[:-1].long()]),
    ):
        torch.testing.assert_close(some, all_of_them, rtol=1e-12, atol=1e-12)
    (loss,) = MaskedLM().losses(model, batch)
    logits = model.mlm_logits(whole[batch.masked_positions])
    expected = F.cross_entropy(logits, batch.masked_labels, reduction="sum")
    torch.testing.assert_close(loss, expected)
    for mine, other in zip(
        *(torch.autograd.grad(one, list(model.parameters())) for one in (loss, expected)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)


def gradients(model: ModernBert, parts: Sequence[Batch], key: int | None = None) -> list[Tensor]:
    model.zero_grad()
    for part in parts:
        (loss,) = MaskedLM().losses(model, part, key)
        loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


DROPPING = {"embedding_dropout": 0.1, "attention_dropout": 0.2, "mlp_dropout": 0.1}


@pytest.mark.parametrize("dropping", [{}, DROPPING])
def test_micro_batches_and_recomputing_change_nothing(
    dropping: dict[str, float], batch: Batch, tokenizer: Tokenizer
) -> None:
    model = of_store(tokenizer, **dropping).double()
    whole = gradients(model, [batch], 5)
    split = gradients(model, batch.split(40), 5)
    model.recomputes = True
    again = gradients(model, [batch], 5)
    for one, *others in zip(whole, split, again, strict=True):
        for other in others:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    if dropping:
        undropped = gradients(model, [batch])
        assert not torch.allclose(whole[0], undropped[0])


def test_filler_changes_nothing(
    batch: Batch, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = of_store(tokenizer).double()
    plain = gradients(model, [batch])
    for module in (device_module, loss_module):
        monkeypatch.setattr(module, "rounds_rows", lambda *_: True)
    for one, other in zip(plain, gradients(model, [batch]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_initial_weights_are_spread_as_theirs() -> None:
    config = replace(SHAPE, hidden_size=256, intermediate_size=384, num_hidden_layers=4)
    model = ModernBert(config, 3000, frozenset({MLM_HEAD, CLASSIFIER}), 500)
    model.initialize(3)
    torch.manual_seed(0)
    theirs = ModernBertForMaskedLM(their_config(config, vocab_size=3000)).state_dict()
    theirs["classifier.weight"] = torch.nn.init.trunc_normal_(
        torch.empty(500, 256), 0, 1 / 16, -2 / 16, 2 / 16
    )
    for name, value in model.state_dict().items():
        (target,) = ARCHITECTURE.hugging_face_names(name)
        other = theirs.get(target)
        if other is None or value.ndim < 2:
            assert value.unique().numel() == 1
            continue
        assert float(value.std()) == pytest.approx(float(other.std()), rel=0.02), name
        assert float(value.abs().max()) == pytest.approx(float(other.abs().max()), rel=0.01), name
    again = ModernBert(config, 3000, frozenset({MLM_HEAD, CLASSIFIER}), 500)
    again.initialize(3)
    assert_equal_weights(model, again)


def test_muon_has_the_matrices_between_hidden_states() -> None:
    model = network()
    muon = make_optimizers(model, TrainingConfig(optimizer="muon")).parts[0]
    blocks = {
        id(parameter): group["num_blocks"]
        for group in muon.param_groups
        for parameter in group["params"]
    }
    expected = {"Wqkv": 3, "Wi": 2, "Wo": 1, "dense": 1}
    for name, parameter in model.named_parameters():
        kind = name.split(".")[-2]
        assert blocks.get(id(parameter)) == (expected.get(kind) if parameter.ndim > 1 else None)


def folder_of(model: Any, tokenizer: Tokenizer, folder: Path, **how: Any) -> Path:
    model.save_pretrained(folder, **how)
    tokenizer.save(folder)
    return folder


def foreign(cls: Any, tokenizer: Tokenizer, **settings: Any) -> Any:
    torch.manual_seed(0)
    usual = {"vocab_size": tokenizer.vocab_size, "initializer_range": 0.3}
    return cls(their_config(SHAPE, **{**usual, **settings})).eval()


@pytest.mark.parametrize("how", [{}, {"max_shard_size": "20KB"}])
def test_their_folders_load(how: dict[str, str], tokenizer: Tokenizer, tmp_path: Path) -> None:
    theirs = foreign(ModernBertForMaskedLM, tokenizer)
    model, _, missing = load_model(folder_of(theirs, tokenizer, tmp_path, **how))
    assert not missing
    assert (tmp_path / "model.safetensors.index.json").exists() == bool(how)
    inputs = packed([40, 9])
    inputs = inputs._replace(input_ids=inputs.input_ids % tokenizer.vocab_size)
    with torch.no_grad():
        mine, other = model.mlm_logits(model(inputs)), their_logits(theirs, inputs)
    assert_near(mine, other)


def test_a_bare_encoder_lacks_the_head(tokenizer: Tokenizer, tmp_path: Path) -> None:
    theirs = foreign(ModernBertModel, tokenizer)
    model, _, missing = load_model(folder_of(theirs, tokenizer, tmp_path))
    assert missing == {HEAD, MLM_HEAD}
    own = model.state_dict()["layers.1.attn.Wqkv.weight"]
    assert torch.equal(own, theirs.state_dict()["layers.1.attn.Wqkv.weight"])


def test_what_is_saved_loads_there_and_here(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = replace(SHAPE, global_attn_every_n_layers=2, local_rope_theta=5000.0, norm_eps=1e-6)
    model = rough(ModernBert(config, tokenizer.vocab_size)).eval()
    Snapshot.of(model, tokenizer).write(tmp_path)
    theirs, report = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs) is ModernBertForMaskedLM
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert theirs.config.cls_token_id == tokenizer.cls_id
    inputs = packed([50, 30])
    inputs = inputs._replace(input_ids=inputs.input_ids % tokenizer.vocab_size)
    with torch.no_grad():
        mine, other = model.mlm_logits(model(inputs)), their_logits(theirs.eval(), inputs)
    assert_near(mine, other)
    again = load_model(tmp_path).model
    assert again.config == config
    assert_equal_weights(model, again)


OF_VERSION_4 = {
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 70_000.0,
    "local_rope_theta": 500,
    "layer_types": None,
    "rope_parameters": None,
    "mlp_dropout": None,
}


def test_configs_of_version_4_are_read() -> None:
    found = ARCHITECTURE.read_config({**ARCHITECTURE.write_config(SHAPE), **OF_VERSION_4})
    expected = replace(
        SHAPE, global_attn_every_n_layers=2, global_rope_theta=7e4, local_rope_theta=5e2
    )
    assert found == expected
    theirs = their_config(SHAPE, **OF_VERSION_4 | {"mlp_dropout": 0.0})
    assert theirs.layer_types == ARCHITECTURE.write_config(found)["layer_types"]
    assert theirs.rope_parameters == ARCHITECTURE.write_config(found)["rope_parameters"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_bias": False}, "`decoder_bias` must be True"),
        ({"tie_word_embeddings": False}, "`tie_word_embeddings` must be True"),
        ({"layer_types": ["sliding_attention"] * 5}, "must have full_attention at the first layer"),
        ({"layer_types": ["full_attention", "full_attention"] + 3 * ["sliding_attention"]}, "n-th"),
        ({"layer_types": "full"}, "`layer_types` must have"),
        ({"rope_scaling": {"type": "linear"}}, "`rope_scaling` must be null"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "`rope_type` of default"),
        ({"rope_parameters": [1]}, "`rope_type` of default"),
        ({"hidden_activation": "tanh"}, "`hidden_activation` has no choice 'tanh'"),
        ({"num_attention_heads": 32}, "must be even for rotary positions"),
        ({"norm_bias": True}, r"must hold model\.embeddings\.norm\.bias"),
        ({"local_attention": "128"}, "`local_attention` must be of type int"),
    ],
)
def test_folders_of_another_structure_are_refused(
    changes: dict[str, Any], message: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folder_of(foreign(ModernBertForMaskedLM, tokenizer), tokenizer, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_classifiers_are_theirs(pooling: str, batch: Batch, tokenizer: Tokenizer) -> None:
    shape: Any = {"classifier_pooling": pooling}
    model = of_store(tokenizer, **shape)
    model = rough(ModernBert(model.config, tokenizer.vocab_size, frozenset({CLASSIFIER}), 3)).eval()
    settings = {"num_labels": 3, "vocab_size": tokenizer.vocab_size}
    theirs = theirs_of(model, ModernBertForSequenceClassification, **settings)
    layout = Layout(batch.lengths, batch.cu_seqlens)
    mask = torch.arange(layout.max_length)[None] < torch.tensor(batch.lengths)[:, None]
    with torch.no_grad():
        mine = SequenceClassification().outputs(model, batch)
        other = theirs(
            input_ids=layout.pad(batch.input_ids[:, None]).squeeze(2), attention_mask=mask.long()
        ).logits
    assert_near(mine, other)


def test_means_are_of_all_tokens(batch: Batch, tokenizer: Tokenizer) -> None:
    shape: Any = {"classifier_pooling": "mean"}
    model = of_store(tokenizer, **shape).double()
    layout = Layout(batch.lengths, batch.cu_seqlens)
    inputs = PackedInput(batch.input_ids, batch.token_type_ids, batch.position_ids, layout)
    expected = torch.stack([part.mean(0) for part in model(inputs).split(batch.lengths)])
    found = sequence_vectors(model, batch, of_all=model.pools_all)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name[:6] in ("modern", "ettin-")])
def test_presets_have_the_parameters_of_theirs(preset: str) -> None:
    config = resolve(preset=preset)
    assert isinstance(config.model, ModernBertConfig)
    assert config.data.objective == "mlm"
    with torch.device("meta"):
        model = build(config.model, config.preparation.vocab_size)
        vocabulary = {"vocab_size": config.preparation.vocab_size}
        theirs = ModernBertForMaskedLM(their_config(config.model, **vocabulary))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == theirs.num_parameters()
    published = {"ettin-17m": 17, "ettin-32m": 32, "ettin-68m": 68, "modern-base": 149}
    if preset in published:
        assert round(count / 1e6) == pytest.approx(published[preset], abs=1)
