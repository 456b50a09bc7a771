"""Whole runs: what they leave, what they refuse, and what survives when they fail."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertForPreTraining

import bertsmith
from bertsmith.architectures.bert.network import Bert
from bertsmith.batch import Batch
from bertsmith.durable import damage, whole_folder
from bertsmith.errors import BertsmithError, DataError, DivergenceError, RunError
from bertsmith.hardware.device import choose_device
from bertsmith.objectives.mlm_nsp import MaskedLMAndNextSentence
from bertsmith.reporting.metrics_file import read_metrics
from bertsmith.training import trainer
from bertsmith.training.run import Run
from bertsmith.training.run_folder import RunFolder
from tests.support.objective import Losses, losses_of
from tests.support.runs import TINY_RUN
from tests.support.texts import WORDS


def test_a_run_leaves_what_it_promises(finished_run: Run) -> None:
    run = finished_run.output
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock",  # nobody holds it; a name that stays cannot be held twice
        "checkpoints",
        "config.toml",
        "corpus.json",
        "curves.png",
        "curves.svg",
        "metrics.jsonl",
        "model",
    ]
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (run / "curves.svg").read_text()
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == [
        "step-00000006",
        "step-00000008",
    ]
    report = json.loads((run / "corpus.json").read_text())
    assert report["splits"]["train"]["pairs"] > 0
    assert report["splits"]["train"]["adjacent_pairs_over_max_length"] >= 0


def test_metrics_are_one_line_a_step_and_end_with_the_closing_figures(finished_run: Run) -> None:
    lines = read_metrics(finished_run.output)
    training = [line for line in lines if "learning_rate" in line]
    assert [line["step"] for line in training] == list(range(1, 9))
    assert training[-1]["pairs"] == 8 * 16
    assert training[-1]["tokens"] == finished_run.metrics["tokens"]
    assert all(math.isfinite(line["mlm_loss"]) and line["grad_norm"] > 0 for line in training)
    assert any("validation_mlm_loss" in line for line in lines[:-1])
    assert lines[-1]["finished"]
    expected = {key: value for key, value in finished_run.metrics.items() if key != "output"}
    assert {key: lines[-1][key] for key in expected} == expected


def test_the_closing_lines_read_as_the_textbooks(finished_run: Run) -> None:
    losses, speed, share, validation = finished_run.closing_lines()
    metrics = finished_run.metrics
    assert losses == f"MLM loss {metrics['mlm_loss']:.3f}, NSP loss {metrics['nsp_loss']:.3f}"
    assert speed.endswith("sentence pairs/sec on [cpu]")
    assert share.startswith(f"{metrics['tokens_per_second']:,.0f} tokens/sec, ")
    assert metrics["share_of_peak"] == pytest.approx(
        metrics["flops_per_second"] / metrics["peak_flops_per_second"]
    )
    assert f"MLM loss {metrics['validation_mlm_loss']:.3f}" in validation
    assert finished_run.sentence_pairs_per_second == metrics["sentence_pairs_per_second"] > 0


def test_a_prompt_shows_the_closing_lines(
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = bertsmith.pretrain(
        text_file, output=tmp_path / "r", profile=True, **{**TINY_RUN, "steps": 2}
    )
    assert capsys.readouterr().out == ""  # a script prints what it likes
    assert run.metrics["phase_seconds"]["forward"] > 0
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    for quiet in (False, True):
        bertsmith.pretrain(output=run.output, resume=True, quiet=quiet)
        lines = capsys.readouterr().out.splitlines()
        expected = [f"{run.output}/model", f"{run.output}/metrics.jsonl"]
        assert lines[: len(run.closing_lines())] == ([] if quiet else run.closing_lines())
        assert all(any(path in line for line in lines) for path in expected) != quiet


def test_the_model_of_a_run_loads_in_transformers(finished_run: Run) -> None:
    folder = finished_run.output / "model"
    theirs = BertForPreTraining.from_pretrained(folder).eval()
    model = bertsmith.load(finished_run.output)
    encoded = AutoTokenizer.from_pretrained(folder)(
        "the crane lifts", "a bird flies", return_tensors="pt"
    )
    with torch.no_grad():
        found = theirs(**encoded, output_hidden_states=True).hidden_states[-1][0]
    mine = model.encode("the crane lifts", "a bird flies")
    assert not isinstance(mine, list)
    torch.testing.assert_close(torch.from_numpy(mine.tokens), found, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_is_a_model_with_its_training_state(finished_run: Run) -> None:
    folder = finished_run.output / "checkpoints" / "step-00000008"
    state = json.loads((folder / "training_state.json").read_text())
    assert state["spent"]["step"] == 8
    moments = load_file(folder / "optimizer.safetensors")
    assert moments["step.pooler.bias"] == 8
    assert BertForPreTraining.from_pretrained(folder).num_parameters() > 0


def test_the_same_config_gives_the_same_weights(finished_run: Run, tmp_path: Path) -> None:
    again = bertsmith.pretrain(
        config=finished_run.output / "config.toml", output=tmp_path / "again", quiet=True
    )
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (again.output / "model" / name).read_bytes() == (
            finished_run.output / "model" / name
        ).read_bytes()
    assert again.metrics["mlm_loss"] == finished_run.metrics["mlm_loss"]


def pretrain(output: Path, corpus: Path, **settings: Any) -> Run:
    return bertsmith.pretrain(
        corpus, output=output, quiet=True, **{**TINY_RUN, "steps": 2, **settings}
    )


def test_dropout_follows_from_the_seed(text_file: Path, tmp_path: Path) -> None:
    dropout = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    first, same, other = (
        pretrain(tmp_path / str(i), text_file, seed=seed, **dropout).metrics["mlm_loss"]
        for i, seed in enumerate((5, 5, 6))
    )
    assert first == same != other


def test_the_model_learns_what_context_tells(tmp_path: Path) -> None:
    """A paragraph repeats one word, so that its neighbours tell what a masked word was."""
    corpus = tmp_path / "echo.txt"
    sentence = "{0} {1} {1} {1} {1}."
    paragraphs = (
        " ".join([sentence.format(word.capitalize(), word)] * 3) for word in sorted(set(WORDS))
    )
    corpus.write_text("\n".join([*paragraphs] * 2))
    options: dict[str, Any] = {"learning_rate": 0.01, "hidden_size": 32}
    run = pretrain(tmp_path / "r", corpus, steps=300, **options)
    training = [line for line in read_metrics(run.output) if "learning_rate" in line]
    assert training[0]["mlm_loss"] > 2.5
    assert run.metrics["mlm_loss"] < 1.0


@pytest.mark.parametrize("preset", ["textbook", "tiny"])
@pytest.mark.parametrize("recipe", ["default", "chapter"])
def test_presets_and_recipes_run(preset: str, recipe: str, text_file: Path, tmp_path: Path) -> None:
    run = bertsmith.pretrain(
        text_file,
        preset=preset,
        recipe=recipe,
        output=tmp_path / "r",
        quiet=True,
        steps=1,
        batch_size=8,
        device="cpu",
    )
    assert math.isfinite(run.metrics["validation_mlm_loss"])


@pytest.mark.parametrize(
    "settings", [{"optimizer": "adam"}, {"optimizer": "adamw"}, {"precision": "bfloat16"}]
)
def test_other_ways_to_train(settings: dict[str, Any], text_file: Path, tmp_path: Path) -> None:
    assert math.isfinite(pretrain(tmp_path / "r", text_file, **settings).metrics["mlm_loss"])


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("One sentence.\nAnother.\n", {}, "two sentences or more"),
        ("One is. Two is.\n" * 3, {}, "at least one batch of 16 sentence pairs; it gives 3"),
        ("a b c. d e f.\n", {"min_frequency": 9}, "at least 9 times"),
        ("", {}, "it is empty"),
    ],
)
def test_a_corpus_that_does_not_suffice_leaves_no_folder(
    text: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    corpus = tmp_path / "t.txt"
    corpus.write_text(text)
    options = {"min_frequency": 1, "validation_fraction": 0.0, **settings}
    with pytest.raises(BertsmithError, match=message):
        pretrain(tmp_path / "runs" / "r", corpus, **options)
    assert not (tmp_path / "runs" / "r").exists()


def test_too_few_pairs_is_a_data_error(tmp_path: Path) -> None:
    corpus = tmp_path / "t.txt"
    corpus.write_text("One is. Two is.\n" * 3)
    with pytest.raises(DataError):
        pretrain(tmp_path / "r", corpus, min_frequency=1)


def test_a_tiny_corpus_trains_without_validation(tmp_path: Path) -> None:
    corpus = tmp_path / "t.txt"
    corpus.write_text("The crane lifts. The bird flies. The river waits.\n")
    run = pretrain(tmp_path / "r", corpus, batch_size=2, min_frequency=1)
    assert "validation_mlm_loss" not in run.metrics
    assert len(run.closing_lines()) == 3


def test_an_output_in_use_is_refused_and_kept(finished_run: Run, text_file: Path) -> None:
    before = (finished_run.output / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match="already holds a run"):
        pretrain(finished_run.output, text_file)
    with pytest.raises(BertsmithError, match="no corpus"):
        bertsmith.pretrain("nowhere", output=finished_run.output, overwrite=True, quiet=True)
    assert (finished_run.output / "metrics.jsonl").read_bytes() == before


def test_a_folder_of_other_files_is_never_overwritten(text_file: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="has other files"):
        bertsmith.pretrain(text_file, output=tmp_path, overwrite=True, quiet=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_project_that_happens_to_have_a_config_is_never_overwritten(
    text_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text("title = 'my site'")
    for other in (False, True):
        if other:
            (tmp_path / "src").mkdir()
        with pytest.raises(RunError, match="must be empty or a run"):
            bertsmith.pretrain(text_file, output=tmp_path, overwrite=True, quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.toml", "src"]


def test_two_runs_in_one_folder_are_refused(text_file: Path, tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "r", overwrite=False)
    with pytest.raises(RunError, match="in use by another process"):
        pretrain(tmp_path / "r", text_file, overwrite=True)
    first.release()
    assert not (tmp_path / "r").exists()


def test_weights_that_overflow_are_never_saved(text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match="weights are not finite"):
        pretrain(tmp_path / "r", text_file, steps=1, learning_rate=3e38, max_grad_norm=0.0)
    assert list((tmp_path / "r").rglob("*.safetensors")) == []


def test_the_first_and_the_last_step_move_the_weights(text_file: Path, tmp_path: Path) -> None:
    run = pretrain(tmp_path / "r", text_file, steps=4)
    rates = [line["learning_rate"] for line in read_metrics(run.output) if "learning_rate" in line]
    assert min(rates) > 0


def test_any_other_text_is_evaluated_whole(finished_run: Run, text_file: Path) -> None:
    own = bertsmith.evaluate(finished_run.output, corpus=text_file, device="cpu")
    assert own.num_pairs == finished_run.metrics["validation_num_pairs"]
    copy = text_file.with_name("copy.txt")
    copy.write_bytes(text_file.read_bytes())
    other = bertsmith.evaluate(finished_run.output, corpus=copy, device="cpu")
    assert other.num_pairs > 5 * own.num_pairs


def test_a_run_is_found_from_within(finished_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for inside in (".", "model", "checkpoints/step-00000008"):
        monkeypatch.chdir(finished_run.output / inside)
        found = bertsmith.evaluate(".", device="cpu")
        assert found.num_pairs == finished_run.metrics["validation_num_pairs"]


def test_a_run_can_be_replaced(text_file: Path, tmp_path: Path) -> None:
    pretrain(tmp_path / "r", text_file)
    (tmp_path / "r" / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"other files \(thesis\.tex\)"):
        bertsmith.pretrain(text_file, output=tmp_path / "r", overwrite=True, quiet=True)
    (tmp_path / "r" / "thesis.tex").unlink()
    run = bertsmith.pretrain(
        text_file, output=tmp_path / "r", overwrite=True, quiet=True, **{**TINY_RUN, "steps": 1}
    )
    assert [line["step"] for line in read_metrics(run.output)] == [1, 1, 1]


def test_an_output_that_is_a_file_or_below_one(text_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "r"):
        with pytest.raises(RunError, match="folder"):
            pretrain(output, text_file)


def test_divergence_keeps_the_last_good_checkpoint(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    plain = losses_of

    def spoiled(model: Bert, batch: Batch, key: int) -> Losses:
        nonlocal calls
        calls += 1
        losses = plain(model, batch, key)
        return losses if calls < 6 else Losses(losses.mlm * float("nan"), losses.nsp)

    monkeypatch.setattr(MaskedLMAndNextSentence, "losses", staticmethod(spoiled))
    message = r"At step 6 the loss or its gradient is not .*step-00000004.*--learning-rate"
    with pytest.raises(DivergenceError, match=message):
        # Without a trial of what fits: it would be counted.
        often = {"checkpoint_every": 2, "max_rollbacks": 0, "micro_batch": 1000}
        pretrain(tmp_path / "r", text_file, steps=9, **often)
    kept = tmp_path / "r" / "checkpoints" / "step-00000004" / "model.safetensors"
    assert all(value.isfinite().all() for value in load_file(kept).values())
    assert not (tmp_path / "r" / "model").exists()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "t"
    with whole_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    with pytest.raises(ValueError, match="stop"), whole_folder(target) as folder:
        (folder / "a").write_text("2")
        raise ValueError("stop")
    assert (target / "a").read_text() == "1"
    with whole_folder(target) as folder:
        (folder / "a").write_text("3")
    assert (target / "a").read_text() == "3"
    assert list(tmp_path.iterdir()) == [target]
    assert damage(target) is None


def test_a_device_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(BertsmithError, match=r"cuda is not\. Use cpu"):
        choose_device("cuda")
    with pytest.raises(BertsmithError, match="gpu is not"):
        choose_device("gpu")
    assert choose_device("cpu") == torch.device("cpu")


def test_budgets_in_tokens_and_minutes_end(text_file: Path, tmp_path: Path) -> None:
    tokens = pretrain(tmp_path / "t", text_file, steps=None, tokens=1000)
    assert 1000 <= tokens.metrics["tokens"] < 1000 + 16 * 24
    minutes = pretrain(tmp_path / "m", text_file, steps=None, minutes=0.01)
    assert minutes.metrics["seconds"] >= 0.6


def test_the_promised_number_of_checkpoints_is_kept(text_file: Path, tmp_path: Path) -> None:
    run = pretrain(tmp_path / "r", text_file, steps=6, checkpoint_every=1, keep_checkpoints=3)
    assert len(list((run.output / "checkpoints").iterdir())) == 3
    assert trainer.CHECKPOINTS_A_RUN == 4


@pytest.mark.slow
def test_wikitext_starts_where_word_frequencies_end(wikitext: Path, tmp_path: Path) -> None:
    run = bertsmith.pretrain(
        wikitext, output=tmp_path / "r", steps=6, batch_size=64, validation_pairs=64, quiet=True
    )
    assert run.metrics["vocabulary_entries"] == 20_256
    assert run.metrics["validation_num_pairs"] == 6_216
    assert run.metrics["validation_mlm_loss"] < 6.95
