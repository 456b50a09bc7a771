"""Weights in several files with an index, as other programs save them; and those of strangers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForPreTraining

from bertsmith.architectures import OF_FINE_TUNING
from bertsmith.architectures.bert.network import Bert
from bertsmith.errors import ModelError
from bertsmith.saved.hugging_face import INDEX_FILE, WEIGHTS_FILE, load_model, missing_heads

FILES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def sharded(folder: Path) -> Path:
    """The weights of `folder` in two files."""
    weights = load_file(folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).unlink()
    places = {name: FILES[number % 2] for number, name in enumerate(sorted(weights))}
    for file in FILES:
        part = {name: weights[name] for name in weights if places[name] == file}
        save_file(part, folder / file, {"format": "pt"})
    write_index(folder, places)
    return folder


def write_index(folder: Path, places: object) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / INDEX_FILE).write_text(json.dumps(index))


def test_weights_in_several_files_are_read(sharded: Path, tiny_model: Bert) -> None:
    found, _, missing = load_model(sharded)
    assert not missing
    assert missing_heads(sharded) == OF_FINE_TUNING
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name


def test_what_transformers_saves_in_parts_is_read(folder: Path, tiny_model: Bert) -> None:
    theirs = BertForPreTraining.from_pretrained(folder)
    (folder / WEIGHTS_FILE).unlink()
    theirs.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    found = load_model(folder).model
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name


NAME = "bert.pooler.dense.bias"
Change = Callable[[Path, dict[str, Any]], object]
CHANGES: dict[str, tuple[Change, str]] = {
    "a file above": (lambda f, p: p.update({NAME: "../x.safetensors"}), "beside the index"),
    "an absolute path": (lambda f, p: p.update({NAME: "/etc/x.safetensors"}), "beside the index"),
    "another kind": (lambda f, p: p.update({NAME: "pytorch_model.bin"}), "beside the index"),
    "a hidden file": (lambda f, p: p.update({NAME: ".x.safetensors"}), "beside the index"),
    "a number": (lambda f, p: p.update({NAME: 7}), "beside the index"),
    "a list": (lambda f, p: p.update({NAME: [FILES[0]]}), "beside the index"),
    "a file that is not there": (lambda f, p: p.update({NAME: "x.safetensors"}), "must hold"),
    "another file": (
        lambda f, p: p.update({NAME: next(file for file in FILES if file != p[NAME])}),
        "that the index gives it",
    ),
    "no name": (lambda f, p: p.pop(NAME), f"has beside them {NAME}"),
    "a name too many": (lambda f, p: p.update(x=FILES[0]), "lacks x"),
    "nothing": (lambda f, p: p.clear(), "weight_map"),
    "too many files": (
        lambda f, p: p.update({f"t{i}": f"m{i}.safetensors" for i in range(300)}),
        "at most 256",
    ),
    "a file of nothing": (lambda f, p: (f / FILES[1]).write_bytes(b""), "damaged"),
    "no file": (lambda f, p: (f / FILES[1]).unlink(), f"must hold {FILES[1]}"),
    "a pipe": (
        lambda f, p: [make(f / FILES[1]) for make in (os.unlink, os.mkfifo)],
        f"must hold {FILES[1]}",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_index_that_lies_is_refused(change: str, sharded: Path) -> None:
    places = json.loads((sharded / INDEX_FILE).read_text())["weight_map"]
    make, message = CHANGES[change]
    make(sharded, places)
    write_index(sharded, places)
    for read in (load_model, missing_heads):
        with pytest.raises(ModelError, match=message) as caught:
            read(sharded)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": []}', "{}"])
def test_what_is_no_index_is_refused(index: str, sharded: Path) -> None:
    (sharded / INDEX_FILE).write_text(index)
    with pytest.raises(ModelError, match=r"index\.json"):
        load_model(sharded)


def test_a_tensor_that_is_there_twice_is_refused(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    weights["pooler.dense.bias"] = weights[NAME] + 1  # as a bare encoder names it
    save_file(weights, folder / WEIGHTS_FILE, {"format": "pt"})
    with pytest.raises(ModelError, match=f"must not hold {NAME} a second time"):
        load_model(folder)


def test_a_tensor_in_two_files_is_refused(sharded: Path) -> None:
    places = json.loads((sharded / INDEX_FILE).read_text())["weight_map"]
    other = next(file for file in FILES if file != places[NAME])
    part = load_file(sharded / other)
    part["pooler.dense.bias"] = load_file(sharded / places[NAME])[NAME]
    save_file(part, sharded / other, {"format": "pt"})
    write_index(sharded, places | {"pooler.dense.bias": other})
    with pytest.raises(ModelError, match="a second time"):
        load_model(sharded)


@pytest.mark.parametrize("length", [2, 1, 0, -7])
def test_a_model_that_cannot_read_a_word_is_refused(length: int, folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": length}))
    with pytest.raises(ModelError, match=f"must be 3 or more, .* got {length}"):
        load_model(folder)


def test_one_file_goes_before_an_index(folder: Path) -> None:
    write_index(folder, {"x": "y"})
    assert not load_model(folder).missing
