"""The whole product on ModernBERT: runs that stop and go on, and all that is done with a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
)

import bertsmith
from bertsmith.cli.main import main
from bertsmith.config import ModernBertConfig, resolve
from bertsmith.errors import ConfigError, InputError
from tests.ranks.job import bertsmith as command
from tests.ranks.job import run as run_on_ranks
from tests.support.labelled import FAST, rows_of, write
from tests.support.ranks import assert_alike
from tests.support.runs import TINY_RUN, result_of, stopped_and_resumed

SETTINGS: dict[str, Any] = {
    **TINY_RUN,
    "architecture": "modernbert",
    "num_hidden_layers": 4,
    "local_attention": 8,
    "tokenizer": "bpe",
    "vocab_size": 300,
    "max_length": 48,
    "optimizer": "muon",
    "steps": 6,
    "checkpoint_every": 2,
}


@pytest.fixture(scope="module")
def trained(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> bertsmith.Run:
    folder = tmp_path_factory.mktemp("modern") / "run"
    return bertsmith.pretrain(text_file, output=folder, quiet=True, **SETTINGS)


def test_it_is_reported_as_what_it_is(trained: bertsmith.Run) -> None:
    assert "NSP" not in "".join(trained.closing_lines())
    settings = (trained.output / "config.toml").read_text()
    assert 'architecture = "modernbert"' in settings
    assert "hidden_dropout_prob" not in settings
    assert not [key for key in trained.metrics if "nsp" in key]


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"attention_dropout": 0.1, "mlp_dropout": 0.1, "precision": "bfloat16"},
    ],
)
def test_a_run_goes_on_byte_for_byte(
    more: dict[str, Any], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, **more}
    whole = bertsmith.pretrain(text_file, output=tmp_path / "a", quiet=True, **settings)
    again = stopped_and_resumed(text_file, tmp_path / "b", monkeypatch, **settings)
    assert result_of(again.output) == result_of(whole.output)


def test_every_checkpoint_loads_there(trained: bertsmith.Run) -> None:
    for folder in (trained.output / "model", trained.output / "checkpoints" / "step-00000004"):
        theirs = AutoModelForMaskedLM.from_pretrained(folder)
        assert type(theirs) is ModernBertForMaskedLM
    text = "the [MASK] flies north over the old river"
    inputs = AutoTokenizer.from_pretrained(trained.output / "model")(text, return_tensors="pt")
    theirs = AutoModelForMaskedLM.from_pretrained(trained.output / "model")
    with torch.no_grad():
        expected = theirs(**inputs).logits[0, 2].softmax(0).max()
    found: Any = bertsmith.load(trained.output, device="cpu").fill(text)
    assert found[0][0].probability == pytest.approx(float(expected), rel=1e-4)


def test_it_is_evaluated_and_encodes(trained: bertsmith.Run, text_file: Path) -> None:
    found = bertsmith.evaluate(trained.output, num_sentences=5)
    expected = trained.metrics["validation_mlm_loss"]
    assert found.figures["mlm_loss"] == pytest.approx(expected, rel=1e-5)
    assert found.pseudo is not None
    model = bertsmith.load(trained.output, device="cpu")
    assert model.encode("a crane flies north").mean.shape == (16,)
    assert model.encode_one("a crane", "a bird").cls.shape == (16,)  # [SEP] alone parts them
    assert bertsmith.similar(trained.output, "crane", text_file, quiet=True)[1]
    with pytest.raises(InputError, match="needs its nsp_head to judge a next sentence"):
        model.next_sentence("a crane", "a bird")


@pytest.mark.parametrize("pooling", [pytest.param("cls", marks=pytest.mark.slow), "mean"])
def test_it_is_fine_tuned_and_probed(
    pooling: str, trained: bertsmith.Run, text_file: Path, tmp_path: Path
) -> None:
    path = trained.output
    if pooling == "mean":
        settings = {**SETTINGS, "classifier_pooling": "mean"}
        path = bertsmith.pretrain(text_file, output=tmp_path / "p", quiet=True, **settings).output
    table = write(tmp_path / "t.tsv", rows_of(80))
    # Word embeddings are larger than drawn ones: eight epochs at 0.01 leave some seeds at 0.5.
    fast = {**FAST, "learning_rate": 0.03}
    tuned = bertsmith.finetune(
        path, train=table, validation=table, output=tmp_path / "d", quiet=True, **fast
    )
    assert tuned.results["pretrained"]["accuracy"]["mean"] > 0.9
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "d")
    assert type(theirs) is ModernBertForSequenceClassification
    assert theirs.config.classifier_pooling == pooling
    assert bertsmith.probe(path, train=table, quiet=True)["pretrained"]


def test_another_run_begins_from_it(
    trained: bertsmith.Run, text_file: Path, tmp_path: Path
) -> None:
    begun = bertsmith.pretrain(
        text_file, output=tmp_path / "c", init_from=trained.output, steps=2, quiet=True
    )
    config = resolve(file=begun.output / "config.toml")
    assert isinstance(config.model, ModernBertConfig)
    assert (config.model.local_attention, config.data.objective) == (8, "mlm")
    assert begun.metrics["validation_mlm_loss"] < trained.metrics["validation_mlm_loss"] + 0.5


def test_the_context_may_be_lengthened(
    trained: bertsmith.Run, text_file: Path, tmp_path: Path
) -> None:
    longer: dict[str, Any] = {"max_length": 100, "global_rope_theta": 1e6}
    begun = bertsmith.pretrain(
        text_file, output=tmp_path / "c", init_from=trained.output, steps=1, quiet=True, **longer
    )
    config = json.loads((begun.output / "model" / "config.json").read_text())
    assert config["rope_parameters"]["full_attention"]["rope_theta"] == 1e6
    assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == 1e4
    assert (config["local_attention"], config["trained_max_length"]) == (8, 100)
    with pytest.raises(ConfigError, match=r"The model in .* has `local_attention` = 8, and 16"):
        bertsmith.pretrain(
            text_file, output=tmp_path / "d", init_from=trained.output, steps=1, local_attention=16
        )


def test_pairs_are_refused(text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 2 segment embeddings; this modernbert has 0"):
        bertsmith.pretrain(text_file, output=tmp_path, **SETTINGS, objective="mlm+nsp")


def test_flags_are_those_of_the_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--architecture", "modernbert", "--help"])
    said = capsys.readouterr().out
    assert "--local-attention" in said
    assert "--type-vocab-size" not in said
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    said = capsys.readouterr().out
    assert "--local-attention" not in said
    assert "--type-vocab-size" in said


def test_flags_train_one(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items() if name != "steps"
    ]
    folder = tmp_path / "run"
    arguments = ["--corpus", str(text_file), "--output", str(folder), "--steps", "2"]
    with pytest.raises(SystemExit, match="0"):
        main(["pretrain", *arguments, *flags])
    config = json.loads((folder / "model" / "config.json").read_text())
    assert (config["model_type"], config["local_attention"]) == ("modernbert", 8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_ranks_train_the_same(
    kind: str, trained: bertsmith.Run, text_file: Path, tmp_path: Path
) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    arguments = ["pretrain", "--corpus", str(text_file), "--output", str(tmp_path / "run"), *flags]
    run_on_ranks(2, command, [*arguments, "--parallel", kind], logs=tmp_path / "logs")
    assert_alike(trained.output, tmp_path / "run", digits=2e-4)
