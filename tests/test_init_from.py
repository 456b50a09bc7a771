"""Going on from a BERT that is there already, on one's own text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM, BertModel

import bertsmith
from bertsmith.cli.main import main
from bertsmith.cli.settings import layers_named
from bertsmith.config import resolve
from bertsmith.errors import BertsmithError
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.initial import given_by_model
from bertsmith.training.run import Run

FAST: dict[str, Any] = {"batch_size": 8, "device": "cpu", "quiet": True}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture
def masked_lm(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A folder that `transformers` wrote, with more embeddings than its tokenizer has entries."""
    folder = tmp_path / "theirs"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def test_a_run_begins_from_the_weights_of_another(
    finished_run: Run, text_file: Path, tmp_path: Path
) -> None:
    run = bertsmith.pretrain(
        text_file,
        init_from=str(finished_run.output),
        output=tmp_path / "r",
        steps=1,
        learning_rate=1e-9,
        muon_learning_rate=1e-9,
        **FAST,
    )
    before, after = (weights(path / "model") for path in (finished_run.output, run.output))
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(value, after[name], atol=1e-6, rtol=0, msg=name)
    assert (run.output / "model" / "tokenizer.json").read_bytes() == (
        finished_run.output / "model" / "tokenizer.json"
    ).read_bytes()
    evaluated = bertsmith.evaluate(finished_run.output, corpus=text_file, device="cpu")
    first = evaluated.figures["mlm_loss"]
    assert first is not None
    assert run.metrics["mlm_loss"] < first + 1


def test_it_goes_on_from_what_transformers_wrote(
    masked_lm: Path, text_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "r"
    options = {**FAST, "checkpoint_every": 2}
    run = bertsmith.pretrain(text_file, init_from=str(masked_lm), output=output, steps=2, **options)
    config = resolve(file=output / "config.toml")
    assert (config.preset, config.data.objective) == ("tiny", "mlm")
    assert (config.model.hidden_size, config.model.num_attention_heads) == (32, 4)
    theirs = BertForMaskedLM.from_pretrained(run.output / "model")
    assert theirs.config.vocab_size == 64
    # What it began from is not needed any more.
    shutil.rmtree(masked_lm)
    again = bertsmith.pretrain(output=output, resume=True, steps=4, quiet=True)
    assert again.metrics["steps"] == 4
    found = bertsmith.evaluate(run.output / "model", corpus=text_file).figures["mlm_loss"]
    assert found is not None
    assert found > 0


def test_heads_that_are_missing_are_drawn(masked_lm: Path, text_file: Path, tmp_path: Path) -> None:
    run = bertsmith.pretrain(
        text_file,
        init_from=str(masked_lm),
        objective="mlm+nsp",
        output=tmp_path / "r",
        steps=1,
        learning_rate=1e-9,
        muon_learning_rate=1e-9,
        **FAST,
    )
    found, given = weights(run.output / "model"), weights(masked_lm)
    head = found["cls.seq_relationship.weight"]
    assert 0 < head.std() < 0.05
    name = "bert.embeddings.word_embeddings.weight"
    torch.testing.assert_close(found[name], given[name], atol=1e-6, rtol=0)


def test_it_resumes_to_the_same_bytes(finished_run: Run, text_file: Path, tmp_path: Path) -> None:
    begins = tmp_path / "begins"
    shutil.copytree(finished_run.output / "model", begins)
    options = {**FAST, "checkpoint_every": 2, "max_length": 24}
    whole, parts = (
        bertsmith.pretrain(
            text_file, init_from=str(begins), output=tmp_path / name, steps=4, **options
        ).output
        for name in ("whole", "parts")
    )
    shutil.rmtree(parts / "checkpoints" / "step-00000004")
    shutil.rmtree(parts / "model")
    (parts / "metrics.jsonl").write_text(
        "".join(
            line
            for line in (parts / "metrics.jsonl").read_text().splitlines(keepends=True)
            if '"finished"' not in line
        )
    )
    bertsmith.pretrain(output=parts, resume=True, quiet=True)
    for name in ("model/model.safetensors", "checkpoints/step-00000004/optimizer.safetensors"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_a_shape_that_contradicts_is_refused(
    finished_run: Run, text_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(BertsmithError, match=r"has `hidden_size` = 16, and 32 was asked for"):
        bertsmith.pretrain(
            text_file,
            init_from=str(finished_run.output),
            hidden_size=32,
            output=tmp_path / "r",
            **FAST,
        )
    assert not (tmp_path / "r").exists()


def test_another_tokenizer_is_refused(finished_run: Run, text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(BertsmithError, match="another tokenizer"):
        bertsmith.pretrain(
            text_file,
            init_from=str(finished_run.output),
            tokenizer="wordpiece",
            vocab_size=60,
            output=tmp_path / "r",
            steps=1,
            **FAST,
        )


def test_what_is_no_model_is_refused(text_file: Path, tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "no model folder"), (tmp_path, "it is none of them")):
        with pytest.raises(BertsmithError, match=message):
            bertsmith.pretrain(text_file, init_from=str(path), output=tmp_path / "r", **FAST)


def test_flags_show_what_the_model_has_decided(finished_run: Run, tmp_path: Path) -> None:
    arguments = ["--corpus", "x.txt", "--init-from", str(finished_run.output)]
    base = layers_named(arguments).resolve()
    assert base.model.hidden_size == 16
    assert base.preparation.tokenizer == str((finished_run.output / "model").resolve())
    file = tmp_path / "c.toml"
    file.write_text(f'[training]\ninit_from = "{finished_run.output}"\n')
    assert layers_named(["--config", str(file)]).resolve().model.hidden_size == 16


def test_the_nearest_preset_gives_the_recipe(masked_lm: Path) -> None:
    (given,) = given_by_model(str(masked_lm))
    assert given.preset == "tiny"
    assert given.defaults["max_length"] <= 40


def test_what_cannot_begin_leaves_the_output_as_it_was(
    finished_run: Run, text_file: Path, tmp_path: Path
) -> None:
    good = tmp_path / "good"
    shutil.copytree(finished_run.output, good)
    before = sorted(path.relative_to(good) for path in good.rglob("*"))
    with pytest.raises(BertsmithError, match="another folder than the model"):
        bertsmith.pretrain(text_file, init_from=good, output=good, overwrite=True, steps=1, **FAST)
    options = {"tokenizer": "wordpiece", "vocab_size": 60, "steps": 1, **FAST}
    with pytest.raises(BertsmithError, match="another tokenizer"):
        bertsmith.pretrain(
            text_file, init_from=finished_run.output, output=good, overwrite=True, **options
        )
    assert sorted(path.relative_to(good) for path in good.rglob("*")) == before
    with pytest.raises(BertsmithError, match="another tokenizer"):
        bertsmith.pretrain(
            text_file, init_from=finished_run.output, output=tmp_path / "n", **options
        )
    assert not (tmp_path / "n").exists()


def test_resume_where_no_run_is_checks_the_shape(
    finished_run: Run, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pretrain", "--corpus", str(text_file), "--init_from", str(finished_run.output)]
    output = tmp_path / "new"
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--resume", "--output", str(output), "--hidden-size", "64"])
    assert stop.value.code == 1
    assert "has `hidden_size` = 16, and 64 was asked for" in capsys.readouterr().err
    assert not output.exists()


def test_a_vocabulary_beyond_the_embeddings_is_refused(masked_lm: Path, tmp_path: Path) -> None:
    config = json.loads((masked_lm / "config.json").read_text())
    (masked_lm / "config.json").write_text(json.dumps({**config, "vocab_size": 20}))
    with pytest.raises(BertsmithError, match="must fit the model's 20 embeddings"):
        bertsmith.pretrain("x.txt", init_from=masked_lm, output=tmp_path / "r", **FAST)


def test_rows_that_only_pad_are_never_likely(
    tokenizer: Tokenizer, text_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bare"
    config = BertConfig(
        vocab_size=500,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save(folder)
    run = bertsmith.pretrain(
        text_file,
        init_from=folder,
        output=tmp_path / "r",
        steps=1,
        learning_rate=1e-9,
        muon_learning_rate=1e-9,
        **FAST,
    )
    floor = run.metrics["validation_unigram_mlm_loss"]
    assert run.metrics["validation_mlm_loss"] < floor + 0.5  # with rows at 0 it would be 2.7 above


def test_a_file_that_names_no_path_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[training]\ninit_from = 5\n")
    with pytest.raises(BertsmithError, match="`init_from` must be a path; got 5"):
        bertsmith.pretrain("x.txt", config=file, output=tmp_path / "r")


def test_a_finetuned_folder_is_a_bert_to_go_on_from(
    finished_run: Run, text_file: Path, tmp_path: Path
) -> None:
    table = tmp_path / "t.tsv"
    table.write_text("text\tlabel\n" + "the crane\t1\na bird\t0\n" * 4)
    tuned = bertsmith.finetune(
        finished_run.output,
        train=table,
        validation=table,
        output=tmp_path / "tuned",
        epochs=1,
        baseline=False,
        quiet=True,
        device="cpu",
    ).output
    run = bertsmith.pretrain(text_file, init_from=tuned, output=tmp_path / "r", steps=1, **FAST)
    assert run.metrics["steps"] == 1
    with pytest.raises(BertsmithError, match="mlm_head"):
        bertsmith.evaluate(tuned, corpus=text_file)
