"""Models by name on a hub, on loopback: fetched once, pinned, refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

import bertsmith
from bertsmith.config import resolve
from bertsmith.errors import ModelError
from bertsmith.saved.hub import fetched, pinned
from bertsmith.saved.locate import find_model
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.run import Run
from tests.support.hub import Hub, commit_of, hub, redirect
from tests.support.labelled import FAST, rows_of, write
from tests.support.runs import TINY_RUN


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub() as found:
        redirect(monkeypatch, found, tmp_path / "cache")
        yield found


@pytest.fixture
def model(served: Hub, finished_run: Run, tmp_path: Path) -> str:
    folder = tmp_path / "model"
    shutil.copytree(finished_run.output / "model", folder)
    served.models["some/bert"] = folder
    return "hf:some/bert"


def test_a_name_stands_wherever_a_run_does(
    model: str, finished_run: Run, text_file: Path, tmp_path: Path
) -> None:
    own = bertsmith.load(finished_run.output, device="cpu").encode_one("a crane flies")
    named = bertsmith.load(model, device="cpu").encode_one("a crane flies")
    assert (own.tokens == named.tokens).all()
    assert find_model(Path(f"{model}@v1")) == find_model(Path(model))
    evaluated = bertsmith.evaluate(model, corpus=text_file, split="train")
    assert evaluated.figures["mlm_loss"]
    assert bertsmith.similar(model, "crane", text_file, quiet=True).others
    table = write(tmp_path / "t.tsv", rows_of(40))
    settings: dict[str, Any] = {**FAST, "epochs": 1, "max_length": 24}
    tuned = bertsmith.finetune(
        model, train=table, validation=table, output=tmp_path / "d", quiet=True, **settings
    )
    assert tuned.results["pretrained"]
    assert bertsmith.probe(model, train=table, quiet=True)["pretrained"]


def test_what_is_there_is_not_fetched_again(model: str, served: Hub) -> None:
    folder = fetched(model)
    count = len(served.asked)
    assert fetched(pinned(model)) == folder
    assert not [path for path in served.asked[count:] if "safetensors" in path]
    served.models.clear()  # as if it were not reached
    assert fetched(f"{model}@{folder.name}") == folder


def test_it_does_without_the_hub(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetched(model)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetched(model) == folder
    with pytest.raises(ModelError, match=r"not in the cache .* the hub was not reached"):
        fetched("hf:some/other")


def test_a_run_writes_down_which_revision(
    model: str, served: Hub, text_file: Path, tmp_path: Path
) -> None:
    run = bertsmith.pretrain(
        text_file, output=tmp_path / "run", init_from=model, steps=1, quiet=True
    )
    commit = commit_of(served.models["some/bert"])
    config = resolve(file=run.output / "config.toml")
    assert config.training.init_from == f"{model}@{commit}"
    assert config.model.hidden_size == TINY_RUN["hidden_size"]


def test_sharded_models_are_fetched(served: Hub, tokenizer: Tokenizer, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "num_hidden_layers": 2}
    settings |= {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    settings |= {f"{name}_token_id": 0 for name in ("pad", "cls", "sep", "bos", "eos")}
    config = ModernBertConfig(**settings)
    theirs = ModernBertForMaskedLM(config)
    theirs.save_pretrained(tmp_path / "m", max_shard_size="20KB")
    tokenizer.save(tmp_path / "m")
    served.models["some/modern"] = tmp_path / "m"
    found = bertsmith.load("hf:some/modern", device="cpu").bert
    own = found.state_dict()["layers.0.attn.Wqkv.weight"]
    assert torch.equal(own, theirs.state_dict()["model.layers.0.attn.Wqkv.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:bert", "must be named hf:owner/name or hf:owner/name@revision; got hf:bert"),
        ("hf:some/none", "There is no model hf:some/none on the Hugging Face Hub"),
        ("hf:some/bert@v2", "hf:some/bert@v2 has no such revision"),
        ("hf:some/closed", "open to those alone who accepted its terms"),
        ("hf:some/roberta", "`model_type` must be bert or modernbert; got 'roberta'"),
        ("hf:some/pickled", r"must hold model\.safetensors or .* \(pickles among them\)"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_line(
    name: str, message: str, model: str, served: Hub, tmp_path: Path
) -> None:
    for kind in ("closed", "roberta", "pickled"):
        shutil.copytree(served.models["some/bert"], tmp_path / kind)
        served.models[f"some/{kind}"] = tmp_path / kind
    served.gated.add("some/closed")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "model.bin")
    config = tmp_path / "roberta" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "roberta"}))
    with pytest.raises(ModelError, match=message) as caught:
        bertsmith.load(name)
    assert "\n" not in str(caught.value)
    assert not [path for path in served.asked if path.endswith(".bin")]
    assert not [path for path in served.asked if "roberta" in path and "safetensors" in path]
