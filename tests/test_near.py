"""First weights with which heads look at the places around a token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from bertsmith import pretrain
from bertsmith.architectures.bert.near import distances, queries_and_keys, waves
from bertsmith.architectures.bert.network import Bert
from bertsmith.config import PRESETS, BertConfig, resolve
from bertsmith.saved.hugging_face import load_model
from bertsmith.saved.locate import find_model
from bertsmith.training.run import Run
from tests.support.runs import STILL, TINY_RUN

SHAPES = [("textbook", {}), ("mini", {}), ("base", {}), ("tiny", {"num_attention_heads": 1})]


def shape_of(preset: str, changes: dict[str, Any]) -> BertConfig:
    model = resolve(preset=preset).model
    assert isinstance(model, BertConfig)
    return replace(model, **changes)


def heads_of(vectors: Tensor, config: BertConfig) -> Tensor:
    """[P, H] → float64 [heads, P, D]."""
    return vectors.double().view(len(vectors), config.num_attention_heads, -1).transpose(0, 1)


@pytest.mark.parametrize(("preset", "changes"), SHAPES)
def test_a_query_is_the_key_of_a_place_further_on(preset: str, changes: dict[str, Any]) -> None:
    """Of position vectors alone, every head's scores are highest at its distance, everywhere."""
    config = shape_of(preset, changes)
    vectors = waves(config)
    queries, keys = queries_and_keys(config).chunk(2)
    for number, distance in enumerate(distances(config.num_attention_heads)):
        query = heads_of(vectors @ queries.T, config)[number]
        key = heads_of(vectors @ keys.T, config)[number]
        places = torch.arange(10, len(vectors) - 10)
        torch.testing.assert_close(query[places], key[places + distance], rtol=0, atol=1e-6)
        assert torch.equal((query[places] @ key.T).argmax(1), places + distance)


def test_half_of_the_heads_look_near_and_both_ways() -> None:
    assert [distances(heads) for heads in (1, 2, 4, 12)] == [
        [-1],
        [-1],
        [-1, 1],
        [-1, 1, -2, 2, -3, 3],
    ]
    config = shape_of("mini", {})
    queries, keys = queries_and_keys(config).chunk(2)
    half = config.hidden_size // 2
    assert not queries[half:].any()
    assert not keys[half:].any()


def test_a_fresh_layer_looks_near_whatever_the_words(tiny_config: BertConfig) -> None:
    """With words drawn, norm and all: the mean score is highest at each head's distance."""
    config = replace(tiny_config, hidden_size=256, num_attention_heads=4)
    model = Bert(config, 500)
    model.initialize(0, looks_near=True)
    first: Any = model.layers[0]
    generator = torch.Generator().manual_seed(0)
    length = config.max_position_embeddings
    scores = torch.zeros(2, length, length)
    for _ in range(64):
        ids = torch.randint(500, (length,), generator=generator)
        hidden = model.embeddings(ids, torch.zeros_like(ids), torch.arange(length), None)
        query, key, _ = first.attention.qkv(hidden).detach().chunk(3, dim=1)
        queries, keys = (part.reshape(length, 4, -1).transpose(0, 1)[:2] for part in (query, key))
        scores += (queries @ keys.mT - torch.diag_embed((queries * keys).sum(2))) / 64
    by_distance = [[float(one.diagonal(k).mean()) for k in (-3, -2, -1, 1, 2, 3)] for one in scores]
    for means, distance in zip(by_distance, (-1, 1), strict=True):
        assert max(range(6), key=means.__getitem__) == (-3, -2, -1, 1, 2, 3).index(distance)


def test_all_other_weights_are_drawn_as_ever(tiny_config: BertConfig) -> None:
    usual, near = Bert(tiny_config, 500), Bert(tiny_config, 500)
    usual.initialize(3)
    near.initialize(3, looks_near=True)
    differ = {
        name
        for (name, one), other in zip(usual.named_parameters(), near.parameters(), strict=True)
        if not torch.equal(one, other)
    }
    assert differ == {"embeddings.position.weight", "layers.0.attention.qkv.weight"}
    size = tiny_config.hidden_size
    values = [
        weight[2 * size :]
        for model in (usual, near)
        for name, weight in model.named_parameters()
        if name == "layers.0.attention.qkv.weight"
    ]
    assert torch.equal(*values)


@pytest.mark.parametrize("hidden", [6, 10])
def test_heads_of_any_size_will_do(hidden: int, tiny_config: BertConfig) -> None:
    """Two heads of three and of five: the last number of each has no wave."""
    config = replace(tiny_config, hidden_size=hidden, num_attention_heads=2)
    model = Bert(config, 50)
    model.initialize(0, looks_near=True)
    assert torch.isfinite(model.embeddings.position.weight).all()
    assert not model.embeddings.position.weight[:, hidden // 2 - 1].any()


def test_small_presets_begin_near_and_the_others_and_the_chapter_do_not() -> None:
    found = {preset: resolve(preset=preset).training.attention_init for preset in PRESETS}
    modern = [name for name in PRESETS if name.startswith(("modern-", "ettin-"))]
    assert found == {
        **dict.fromkeys(modern, "normal"),
        **dict.fromkeys(["textbook", "tiny", "mini", "small"], "near"),
        **dict.fromkeys(["medium", "base", "large"], "normal"),
    }
    assert resolve(recipe="chapter").training.attention_init == "normal"


@pytest.mark.parametrize("wish", ["near", "normal"])
def test_a_run_begins_as_its_settings_say(
    wish: Literal["near", "normal"], text_file: Path, tmp_path: Path
) -> None:
    run = pretrain(text_file, output=tmp_path, attention_init=wish, **STILL, **TINY_RUN)
    model: Any = load_model(find_model(run.output)).model
    vectors = model.embeddings.position.weight.detach()
    assert torch.allclose(vectors, waves(model.config), atol=1e-6) == (wish == "near")


def test_a_run_that_goes_on_from_a_model_keeps_its_vectors(
    finished_run: Run, text_file: Path, tmp_path: Path
) -> None:
    begins_from = str(finished_run.output)
    run = pretrain(text_file, output=tmp_path, init_from=begins_from, **STILL)
    recorded = resolve(file=run.output / "config.toml")
    assert recorded.training.attention_init == "normal"
    before, after = (
        load_model(find_model(one.output)).model.state_dict()["embeddings.position.weight"]
        for one in (finished_run, run)
    )
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
