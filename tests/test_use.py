"""Inference, pictures, and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bertsmith
from bertsmith.architectures import build
from bertsmith.cli.main import main
from bertsmith.errors import InputError
from bertsmith.inference.model import Encoding, PretrainedModel, compare, cosine_similarity
from bertsmith.reporting.curves import draw_curves, save_curves
from bertsmith.reporting.metrics_file import read_metrics
from bertsmith.reporting.points import smooth
from bertsmith.saved.hugging_face import load_model
from bertsmith.training.run import Run


@pytest.fixture(scope="module")
def model(finished_run: Run) -> PretrainedModel:
    return bertsmith.load(finished_run.output, device="cpu")


def encode(model: PretrainedModel, text: str, pair: str | None = None) -> Encoding:
    found = model.encode(text, pair)
    assert isinstance(found, Encoding)
    return found


def test_a_text_and_a_pair_are_represented_as_in_the_textbook(model: PretrainedModel) -> None:
    one = encode(model, "a crane is flying")
    two = encode(model, "a crane driver came", "he just left")
    assert (one.tokens.shape, two.tokens.shape) == ((6, 16), (10, 16))
    assert one.tokens.dtype == np.float32
    assert one.cls.shape == one.mean.shape == (16,)
    assert np.array_equal(one.cls, one.tokens[0])
    assert np.allclose(one.mean, one.tokens[1:-1].mean(0))
    assert one.token_texts[2] == two.token_texts[2] == "crane"
    assert two.segments == [0] * 6 + [1] * 4
    words = dict(compare(one, two))
    assert words["crane"] == pytest.approx(cosine_similarity(one.tokens[2], two.tokens[2]))
    assert np.abs(one.tokens[2] - two.tokens[2]).max() > 1e-4  # its neighbours are others


def test_many_texts_come_back_in_their_order(model: PretrainedModel) -> None:
    texts: list[str | tuple[str, str]] = [
        "the crane",
        "the crane lifts a beam over old river",
        ("a bird", "waits"),
        "",
        "the crane",
    ]
    found = model.encode(texts)
    assert isinstance(found, list)
    for one, text in zip(found, texts, strict=True):
        alone = encode(model, *([text] if isinstance(text, str) else text))
        assert one.token_texts == alone.token_texts
        np.testing.assert_allclose(one.tokens, alone.tokens, atol=1e-5)
    assert model.encode([]) == []
    with pytest.raises(InputError, match="entry"):
        model.encode(["a"], "b")  # type: ignore[call-overload]


def test_a_long_text_is_cut_and_says_so(model: PretrainedModel) -> None:
    with pytest.warns(UserWarning, match="cut to the 24"):
        found = encode(model, "crane " * 100)
    assert found.tokens.shape == (24, 16)
    assert found.num_cut_tokens == 78
    assert found.token_texts[-1] == "[SEP]"
    with pytest.warns(UserWarning, match="cut"):
        pair = encode(model, "crane " * 100, "bird " * 4)
    assert pair.token_texts.count("bird") == 4
    assert pair.token_texts.count("crane") == 17
    assert pair.segments == [0] * 19 + [1] * 5


def test_masks_are_filled_with_likely_words(model: PretrainedModel) -> None:
    first, second = model.fill("the [MASK] lifts a [MASK] .", top_k=4)
    assert len(first) == len(second) == 4
    probabilities = [word.probability for word in first]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1
    assert first[0].text == f"the {first[0].token} lifts a [MASK] ."
    assert second[0].text == f"the [MASK] lifts a {second[0].token} ."
    assert not any(word.token.startswith("[") for word in (*first, *second))
    everything = model.fill("the [MASK]", top_k=10**6)[0]
    assert len(everything) == len(model.tokenizer.regular_ids)


@pytest.mark.parametrize(
    ("text", "top_k", "message"), [("no mask", 5, "must hold"), ("[MASK]", 0, "at least 1")]
)
def test_fill_needs_a_mask(text: str, top_k: int, message: str, model: PretrainedModel) -> None:
    with pytest.raises(InputError, match=message):
        model.fill(text, top_k=top_k)


def test_next_sentence_is_a_probability(model: PretrainedModel) -> None:
    assert 0 < model.next_sentence("the crane lifts", "a bird flies") < 1


def test_a_missing_head_is_said(finished_run: Run) -> None:
    bert, tokenizer, _ = load_model(finished_run.output / "model")
    bare = PretrainedModel(
        bert, tokenizer, frozenset({"mlm_head", "nsp_head"}), torch.device("cpu")
    )
    assert encode(bare, "the crane").tokens.shape == (4, 16)
    with pytest.raises(InputError, match="mlm_head"):
        bare.fill("a [MASK]")
    with pytest.raises(InputError, match="nsp_head"):
        bare.next_sentence("a", "b")


def test_evaluating_a_run_gives_its_closing_figures(finished_run: Run) -> None:
    found = bertsmith.evaluate(finished_run.output, device="cpu").metrics()
    for name, value in found.items():
        assert value == pytest.approx(finished_run.metrics[name], rel=1e-5), name


def test_smoothing_starts_at_the_first_value() -> None:
    assert smooth([3.0, 3.0, 3.0], 2) == [3.0, 3.0, 3.0]
    assert smooth([1.0, 5.0], 1) == [1.0, 5.0]
    assert smooth([0.0, 1.0], 2)[1] == pytest.approx(2 / 3)


def test_curves_show_both_losses_of_both_splits(finished_run: Run) -> None:
    mlm, nsp = draw_curves(finished_run.output).axes
    labels = ["training (smoothed)", "validation", "word frequencies"]
    assert mlm.get_legend_handles_labels()[1] == labels
    floor = finished_run.metrics["validation_unigram_mlm_loss"]
    assert np.asarray(mlm.get_lines()[-1].get_ydata())[0] == pytest.approx(floor, rel=0.1)
    low, high = mlm.get_ylim()
    assert low < floor < high
    assert "chance" in nsp.get_legend_handles_labels()[1]
    assert mlm.get_xlabel() == "optimizer step"
    assert mlm.get_ylabel() == "loss (nats)"
    raw = mlm.get_lines()[0]
    assert np.asarray(raw.get_xdata()).tolist() == list(range(1, 9))


def test_closing_figures_are_a_point_where_there_is_no_other(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "mlm_loss": 3.0, "learning_rate": 1}\n')
    closing = {"step": 5, "validation_mlm_loss": 2.0, "mlm_loss": 3.0}
    (panel,) = draw_curves(tmp_path, closing).axes
    (line,) = [line for line in panel.get_lines() if line.get_label() == "validation"]
    assert np.asarray(line.get_xydata()).tolist() == [[5, 2.0]]


def test_curves_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "mlm_l')
    assert read_metrics(tmp_path) == []
    save_curves(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "curves.png",
        "curves.svg",
        "metrics.jsonl",
    ]


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop, warnings.catch_warnings():
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, captured.out, captured.err


FAST = (
    "--hidden-size 16 --intermediate-size 32 --num-hidden-layers 1 --max-length 24 "
    "--batch-size 16 --min-frequency 2 --device cpu"
).split()


def test_pretrain_on_the_command_line(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = call(
        capsys,
        *("pretrain", "--corpus", text_file, "--steps", 2, "--output", tmp_path / "r", "--json"),
        *("--profile", *FAST),
    )
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("MLM loss ")
    assert lines[1].endswith("sentence pairs/sec on [cpu]")
    assert "tokens/sec" in lines[2]
    assert lines[3].startswith("validation: MLM loss")
    parts = [line.split()[0] for line in lines[5:10]]
    assert parts == ["data", "forward", "backward", "optimizer", "other"]
    figures = json.loads(lines[-1])
    assert figures["output"] == str(tmp_path / "r")
    for name in (
        "mlm_loss nsp_loss sentence_pairs_per_second tokens_per_second validation_mlm_loss "
        "validation_mlm_accuracy validation_nsp_accuracy"
    ).split():
        assert isinstance(figures[name], float), name
    assert "Vocabulary: " in err


def test_flags_reach_the_config(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ("pretrain", "--corpus", text_file, "--output", tmp_path / "a", "--quiet", *FAST)
    status, _, err = call(capsys, *first, "--steps=1", "--no-lowercase", "--learning-rate", "0.5")
    assert (status, err) == (0, "")
    text = (tmp_path / "a" / "config.toml").read_text()
    assert "lowercase = false" in text
    assert "learning_rate = 0.5" in text
    again = ("pretrain", "--config", tmp_path / "a" / "config.toml", "--output", tmp_path / "b")
    assert call(capsys, *again, "--quiet", "--epochs", "0.1")[0] == 0
    other = (tmp_path / "b" / "config.toml").read_text()
    assert "epochs = 0.1" in other
    assert "steps =" not in other
    assert "learning_rate = 0.5" in other


def test_encode_fill_next_and_evaluate_on_the_command_line(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run.output
    assert "float32 [6, 16]" in call(capsys, "encode", run, "a crane is flying")[1]
    pair = ("encode", run, "a crane driver came", "he just left")
    assert "float32 [10, 16]" in call(capsys, *pair)[1]
    compared = call(capsys, *pair, "--compare", "a crane is flying")[1]
    assert "cosine of 'crane' in the two contexts: " in compared
    figures = json.loads(call(capsys, *pair, "--pooling", "cls", "--json")[1])
    assert (figures["shape"], len(figures["vectors"])) == ([16], 16)
    assert len(call(capsys, "fill", run, "a [MASK]", "--top-k", 3)[1].splitlines()) == 3
    assert json.loads(call(capsys, "fill", run, "a [MASK]", "--json")[1])["masks"][0][0]["token"]
    assert "%" in call(capsys, "next", run, "a crane", "a bird")[1]
    assert 0 < json.loads(call(capsys, "next", run, "a", "b", "--json")[1])["probability"] < 1
    found = json.loads(call(capsys, "evaluate", run, "--json")[1])
    assert found["validation_mlm_loss"] == pytest.approx(
        finished_run.metrics["validation_mlm_loss"], rel=1e-5
    )
    assert "MLM accuracy" in call(capsys, "evaluate", run, "--split", "train")[1]
    assert "python-docs" in json.loads(call(capsys, "corpora", "--json")[1])
    assert "wikitext-2" in call(capsys, "corpora")[1]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("pooling", ["tokens", "cls", "mean"])
def test_a_file_of_texts_is_encoded(
    pooling: str, finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "t.txt"
    texts.write_text("the crane\nthe old river\ta bird flies\n" + "the " * 60 + "\n")
    target = tmp_path / "v.npz"
    status, out, _ = call(
        capsys,
        *("encode", finished_run.output, "--input", texts, "--output", target),
        *("--pooling", pooling),
    )
    assert status == 0
    assert "1 of them cut to 24 tokens" in out
    with np.load(target, allow_pickle=False) as arrays:
        vectors = arrays["vectors"]
        if pooling == "tokens":
            assert arrays["offsets"].tolist() == [0, 4, 13, 37]
        assert vectors.shape == ((37, 16) if pooling == "tokens" else (3, 16))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.txt", "v.npz"]


def test_a_line_of_the_file_is_a_row(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "t.txt"
    texts.write_text("\ufeffthe\u2028crane\r\nthe \x0criver\n", encoding="utf-8", newline="")
    arguments = ("encode", finished_run.output, "--input", texts, "--output", tmp_path / "v.npz")
    status, out, _ = call(capsys, *arguments, "--pooling", "mean", "--json")
    assert status == 0
    assert json.loads(out)["shape"] == [2, 16]


def test_padding_rows_of_the_matrix_are_never_proposed(model: PretrainedModel) -> None:
    config, vocab_size = model.bert.config, model.tokenizer.vocab_size
    padded: Any = build(config, vocab_size + 27).eval()
    padded.initialize(0)
    padded.mlm_head.bias.data[vocab_size:] = 100.0
    wider = PretrainedModel(padded, model.tokenizer, frozenset(), torch.device("cpu"))
    assert "None" not in [word.token for word in wider.fill("the [MASK]", top_k=3)[0]]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("pretrain --corpus no-such-thing", 1, "no corpus and no path"),
        ("pretrain --preset bas", 1, "did you mean base"),
        ("pretrain --recipe chapters", 1, "did you mean chapter"),
        ("pretrain --max-length 7", 1, "at least 8"),
        ("pretrain --hidden-size 130 --num-attention-heads 4", 1, "multiple of"),
        ("pretrain --config none.toml", 1, "Cannot read"),
        ("pretrain --optimizer adamw --muon-momentum 0.9", 1, "`muon_momentum` changes nothing"),
        ("prepare --corpus a --output b --vocab-size 99", 1, "choose wordpiece, bpe or unigram"),
        ("pretrain --steps 3 --epochs 2", 2, "one budget"),
        ("pretrain --stepz 3", 2, "--stepz"),
        ("pretrain --steps three", 2, "three"),
        ("pretrain --preset", 2, "preset"),
        ("predrain", 2, "predrain"),
        ("encode nowhere text", 1, "no run and no model"),
        ("encode . text", 1, "must be a run"),
        ("encode RUN", 1, "one of the two"),
        ("encode RUN --input none.txt", 1, "go together"),
        ("encode RUN --input none.txt --output v.npz", 1, "Cannot read none.txt"),
        ("fill RUN text", 1, "must hold [MASK]"),
        ("evaluate RUN --split tset", 1, "no split"),
        (f"encode {'x' * 5000} text", 1, "File name too long"),
        (f"pretrain --corpus {'x' * 5000}", 1, "File name too long"),
        (f"pretrain --output {'x' * 5000}", 1, "File name too long"),
        ("encode RUN --input t --output none/v.npz", 1, "must exist"),
        ("encode RUN --input t --output v.npz --compare x", 1, "leave one"),
        ("evaluate RUN --corpus no-such-thing", 1, "no corpus"),
        ("evaluate RUN/model --corpus python-docs --split test", 1, "no split"),
    ],
)
def test_what_a_user_gets_wrong(
    arguments: str,
    status: int,
    message: str,
    finished_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = arguments.replace("RUN", str(finished_run.output)).split()
    found, out, err = call(capsys, *words)
    assert found == status
    assert message in err
    assert out == ""
    assert "Traceback" not in err
    if status == 1:
        assert len([line for line in err.splitlines() if "bertsmith: error:" in line]) == 1
    assert list(tmp_path.rglob("*")) == [] or not any(p.is_file() for p in tmp_path.rglob("*"))


def test_the_installed_command_answers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bertsmith", "encode", str(tmp_path), "x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("bertsmith: error: ")
    assert len(done.stderr.splitlines()) == 1
