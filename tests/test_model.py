"""Parity with `transformers` in float32, the losses, the layout, and folders from strangers."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForPreTraining,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
)

from bertsmith.architectures import build
from bertsmith.architectures.bert.network import Bert
from bertsmith.batch import Batch
from bertsmith.config import BertConfig, resolve
from bertsmith.data.store import TokenStore
from bertsmith.errors import BertsmithError, ModelError
from bertsmith.nn import loss as loss_module
from bertsmith.nn.layout import Layout, PackedInput
from bertsmith.nn.loss import masked_lm_loss, score_labels
from bertsmith.saved.hugging_face import Snapshot, load_model
from bertsmith.saved.locate import find_model
from bertsmith.tokenizer import Tokenizer
from tests.support.objective import BERT, losses_of
from tests.support.stores import make_batches

CPU = torch.device("cpu")


@pytest.fixture
def batch(store: TokenStore, tokenizer: Tokenizer) -> Batch:
    return make_batches(store, tokenizer).batch(0)


def padded(batch: Batch) -> dict[str, Tensor]:
    """As `transformers` takes it."""
    layout = Layout.of(batch.lengths, CPU)
    longest = max(batch.lengths)
    mask = torch.arange(longest)[None] < torch.tensor(batch.lengths)[:, None]
    return {
        "input_ids": layout.pad(batch.input_ids[:, None]).squeeze(2),
        "token_type_ids": layout.pad(batch.token_type_ids[:, None]).squeeze(2),
        "attention_mask": mask.long(),
    }


def ours(model: Bert, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    layout = Layout.of(batch.lengths, CPU)
    with torch.no_grad():
        hidden = model(
            PackedInput(batch.input_ids, batch.token_type_ids, batch.position_ids, layout)
        )
        return (
            hidden,
            model.mlm_logits(hidden),
            model.nsp_logits(model.pool(hidden[batch.cu_seqlens[:-1].long()])),
        )


def assert_same_outputs(model: Bert, theirs: Any, batch: Batch) -> None:
    inputs = padded(batch)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        found = theirs(**inputs, output_hidden_states=True)
    hidden, mlm, nsp = ours(model, batch)
    for mine, other in (
        (hidden, found.hidden_states[-1][real]),
        (mlm, found.prediction_logits[real]),
        (nsp, found.seq_relationship_logits),
    ):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("preset", "parameters"), [("base", 110_106_428), ("large", 336_226_108)])
def test_published_sizes_have_the_published_parameters(preset: str, parameters: int) -> None:
    config = resolve(preset=preset).model
    with torch.device("meta"):
        model = build(config, 30_522)
        theirs = BertForPreTraining(
            transformers.BertConfig(
                vocab_size=30_522,
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                intermediate_size=config.intermediate_size,
            )
        )
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in theirs.parameters()) == parameters


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_our_weights_give_the_same_in_transformers(
    activation: str, tiny_model: Bert, tokenizer: Tokenizer, batch: Batch, tmp_path: Path
) -> None:
    config = BertConfig(**{**vars(tiny_model.config), "hidden_act": activation})
    model = Bert(config, tokenizer.vocab_size)
    model.load_state_dict(tiny_model.state_dict())
    Snapshot.of(model.eval(), tokenizer).write(tmp_path)
    theirs, report = AutoModelForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs) is BertForPreTraining
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert_same_outputs(model, theirs.eval(), batch)


def their_config(tokenizer: Tokenizer) -> transformers.BertConfig:
    return transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        initializer_range=0.3,
    )


def test_their_weights_give_the_same_here(
    tokenizer: Tokenizer, batch: Batch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = BertForPreTraining(their_config(tokenizer)).eval()
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    model: Any
    model, _, missing = load_model(tmp_path)
    assert not missing
    assert_same_outputs(model, theirs, batch)


@pytest.mark.parametrize(
    ("cls", "missing"),
    [(BertModel, {"mlm_head", "nsp_head"}), (BertForMaskedLM, {"pooler", "nsp_head"})],
)
def test_models_without_some_heads_load(
    cls: Any, missing: set[str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    theirs = cls(their_config(tokenizer))
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    model: Any
    model, _, found = load_model(tmp_path)
    assert found == missing
    name = "embeddings.word_embeddings.weight"
    expected = {k.removeprefix("bert."): v for k, v in theirs.state_dict().items()}[name]
    assert torch.equal(model.embeddings.word.weight, expected)
    if "mlm_head" in missing:  # as initialised, not what the memory held
        assert not model.mlm_head.bias.any()
        assert (model.mlm_head.norm.weight == 1).all()


def test_saving_and_loading_changes_nothing(tiny_model: Bert, folder: Path) -> None:
    again, tokenizer, missing = load_model(folder)
    assert not missing
    assert again.config == tiny_model.config
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert tokenizer.max_length == 32


def test_old_names_of_norms_are_read(tiny_model: Bert, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in weights.items()
    }
    save_file(renamed, folder / "model.safetensors")
    again: Any = load_model(folder).model
    assert torch.equal(again.embeddings.norm.weight, tiny_model.embeddings.norm.weight)


def test_every_parameter_has_one_place_in_the_file(tiny_model: Bert) -> None:
    names = [target for name in tiny_model.state_dict() for target in BERT.hugging_face_names(name)]
    assert len(names) == len(set(names))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "must be bert or modernbert; got 'roberta'"),
        ({"hidden_act": "silu"}, "must be relu or gelu; got 'silu'"),
        ({"hidden_size": 33}, "multiple of"),
        ({"hidden_size": "32"}, "of type int"),
        ({"hidden_size": 64}, "must have shape"),
        ({"vocab_size": -1}, "from 1 to 16777216; got -1"),
        ({"vocab_size": 10}, "must fit the model's 10 embeddings"),
        ({"num_hidden_layers": 3}, r"must hold bert\.encoder\.layer\.2\."),
        ({"is_decoder": True}, "`is_decoder` must be False"),
        ({"vocab_size": 10**12}, "from 1 to 16777216"),
        ({"vocab_size": 10**7}, "must have shape"),
        ({"hidden_size": 2**40}, "at most 16777216"),
        ({"num_hidden_layers": 10**7}, "layers at most 512"),
        ({"hidden_act": ["gelu"]}, "must be relu or gelu"),
    ],
)
def test_folders_of_another_structure_are_refused(
    changes: dict[str, object], message: str, folder: Path
) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b"\xff"),
        ("config.json", b"[" * 100_000),
        ("config.json", b" " * (2**20 + 1)),
        ("model.safetensors", b""),
        ("model.safetensors", b"\x80\x02}q\x00."),
        ("model.safetensors", (2**60).to_bytes(8, "little") + b"{}"),
        ("tokenizer.json", b"{}"),
    ],
)
def test_damaged_files_are_named(file: str, content: bytes, folder: Path) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(BertsmithError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_files_are_named(file: str, folder: Path) -> None:
    (folder / file).unlink()
    with pytest.raises(BertsmithError, match=file):
        load_model(folder)


def test_a_cut_off_weights_file_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        load_model(folder)


def test_a_model_is_found_from_any_of_its_folders(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (8, 12):
        shutil.copytree(folder, run / "checkpoints" / f"step-{step:08d}")
    (run / "config.toml").touch()
    assert find_model(run) == run / "checkpoints" / "step-00000012"
    shutil.copytree(folder, run / "model")
    assert find_model(run) == run / "model"
    assert find_model(run / "checkpoints" / "step-00000008").name == "step-00000008"
    assert find_model(folder) == folder
    with pytest.raises(ModelError, match="must be a run"):
        find_model(run / "checkpoints")
    with pytest.raises(ModelError, match="no run"):
        find_model(tmp_path / "none")


@pytest.mark.parametrize("filler", [0, 4])
@pytest.mark.parametrize("lengths", [[5, 5, 5], [7, 4, 1]])
def test_padding_and_back_with_gradients(lengths: list[int], filler: int) -> None:
    layout, num_rows = Layout.of(lengths, CPU), sum(lengths) + filler
    packed = torch.randn(sum(lengths), 3, dtype=torch.float64, requires_grad=True)
    grid = layout.pad(packed)
    assert grid.shape == (3, max(lengths), 3)
    back = layout.unpad(grid, num_rows)
    assert torch.equal(back, F.pad(packed, (0, 0, 0, filler)))
    assert torch.equal(layout.pad(back), grid)
    assert torch.autograd.gradcheck(lambda x: layout.unpad(layout.pad(x) ** 2, num_rows), packed)
    for row, (start, end) in enumerate(pairwise(np.cumsum([0, *lengths]))):
        assert torch.equal(grid[row, : end - start], packed[start:end])
        assert not grid[row, end - start :].any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_the_chunked_loss_is_cross_entropy(
    dtype: torch.dtype, tolerance: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "_LOGITS_AT_ONCE", rows * 31)
    torch.manual_seed(0)
    hidden, weight = torch.randn(17, 8, dtype=dtype), torch.randn(31, 8, dtype=dtype)
    bias, labels = torch.randn(31, dtype=dtype), torch.randint(31, (17,))
    plain, chunked = (
        [x.clone().requires_grad_() for x in (hidden, weight, bias)] for _ in range(2)
    )
    expected = F.cross_entropy(F.linear(plain[0], plain[1], plain[2]), labels, reduction="sum")
    (expected * 0.7).backward()
    found = masked_lm_loss(chunked[0], chunked[1], chunked[2], labels)
    (found * 0.7).backward()
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    for mine, other in zip(chunked, plain, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=tolerance, rtol=tolerance)
    logits = F.linear(hidden, weight, bias)
    losses, is_first = score_labels(hidden, weight, bias, labels)
    one_by_one = F.cross_entropy(logits, labels, reduction="none").float()
    torch.testing.assert_close(losses, one_by_one, atol=tolerance, rtol=tolerance)
    assert torch.equal(is_first, logits.argmax(1) == labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equal_logits_the_first_is_the_guess(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "_LOGITS_IN_CACHE", 2 * 31)
    torch.manual_seed(0)
    hidden = torch.randint(-1, 2, (200, 4)).to(dtype)
    weight, bias = torch.randint(-1, 2, (31, 4)).to(dtype), torch.zeros(31, dtype=dtype)
    labels = torch.randint(31, (200,))
    logits = hidden @ weight.T
    tied = (logits == logits.amax(1, keepdim=True)).sum(1) > 1
    assert tied.any()
    labels[:100] = logits[:100].float().argmax(1)
    labels[100] = -100  # filler
    _, is_first = score_labels(hidden, weight, bias, labels)
    assert torch.equal(is_first, logits.argmax(1) == labels)


def test_bfloat16_gradients_do_not_degrade_with_the_number_of_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(2000, 16), torch.randn(50, 16) * 0.1
    bias, labels = torch.zeros(50), torch.randint(50, (2000,))
    errors = []
    exact = weight.clone().requires_grad_()
    masked_lm_loss(hidden, exact, bias, labels).backward()
    for rows in (2000, 20):
        monkeypatch.setattr(loss_module, "_LOGITS_AT_ONCE", rows * 50)
        rounded = weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            masked_lm_loss(hidden, rounded, bias, labels).backward()
        assert exact.grad is not None
        assert rounded.grad is not None
        errors.append(float((rounded.grad - exact.grad).norm() / exact.grad.norm()))
    assert max(errors) < 0.02
    assert errors[1] < 1.5 * errors[0]


def test_no_masked_token_is_no_loss() -> None:
    hidden = torch.zeros(0, 8, requires_grad=True)
    found = masked_lm_loss(hidden, torch.randn(31, 8), torch.randn(31), torch.zeros(0).long())
    found.backward()
    assert found == 0


def plain_loss(model: Bert, batch: Batch) -> Tensor:
    """The textbook computation: padded, logits everywhere, other positions ignored."""
    layout = Layout.of(batch.lengths, CPU)
    hidden = model(PackedInput(batch.input_ids, batch.token_type_ids, batch.position_ids, layout))
    labels = torch.full_like(batch.input_ids, -100)
    labels[batch.masked_positions] = batch.masked_labels
    nsp = model.nsp_logits(model.pool(hidden[batch.cu_seqlens[:-1].long()]))
    return F.cross_entropy(model.mlm_logits(hidden), labels) + F.cross_entropy(
        nsp, batch.sequence_labels
    )


def test_losses_and_gradients_are_the_plain_ones(tiny_model: Bert, batch: Batch) -> None:
    tiny_model.double()
    gradients = []
    for run in (0, 1):
        tiny_model.zero_grad()
        if run:
            value = plain_loss(tiny_model, batch)
        else:
            losses = losses_of(tiny_model, batch)
            value = losses.mlm / batch.num_masked + losses.nsp / batch.num_sequences
        value.backward()
        gradients.append([value.detach(), *(p.grad for p in tiny_model.parameters())])
    for mine, other in zip(*gradients, strict=True):
        assert mine is not None
        torch.testing.assert_close(mine, other, atol=1e-10, rtol=1e-8)


def test_every_parameter_gets_a_gradient(tiny_model: Bert, batch: Batch) -> None:
    losses = losses_of(tiny_model, batch)
    (losses.mlm + losses.nsp).backward()
    for name, parameter in tiny_model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_mlm_head_sees_masked_positions_only(tiny_model: Bert, batch: Batch) -> None:
    seen = []
    tiny_model.mlm_head.register_forward_hook(lambda m, inputs, out: seen.append(len(out)))
    losses_of(tiny_model, batch)
    assert seen == [batch.num_masked]


def test_sequences_do_not_see_one_another(tiny_model: Bert, batch: Batch) -> None:
    hidden, _, _ = ours(tiny_model, batch)
    alone = batch.split(batch.num_tokens // 2)[-1]
    assert alone.num_tokens < batch.num_tokens
    found, _, _ = ours(tiny_model, alone)
    torch.testing.assert_close(found, hidden[-alone.num_tokens :], atol=1e-5, rtol=1e-5)


def test_initial_weights_follow_from_the_seed(tiny_config: BertConfig) -> None:
    models = [Bert(tiny_config, 500) for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        model.initialize(seed)
    first, same, other = (model.embeddings.word.weight for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert float(first.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert not models[0].pooler.bias.any()
