"""Runs on single segments, without next sentences; and masks of words and spans in a run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import bertsmith
from bertsmith.config import resolve
from bertsmith.display import Display
from bertsmith.errors import InputError
from bertsmith.reporting.curves import draw_curves
from bertsmith.reporting.metrics_file import read_metrics
from bertsmith.training.prepare import prepare
from bertsmith.training.run import Run
from tests.support.runs import TINY_RUN, result_of, stopped_and_resumed

MLM = {**TINY_RUN, "objective": "mlm"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Run:
    output = tmp_path_factory.mktemp("mlm") / "run"
    return bertsmith.pretrain(
        text_file, output=output, steps=6, checkpoint_every=2, quiet=True, **MLM
    )


def test_a_run_on_segments_has_one_loss(run: Run) -> None:
    assert run.metrics["segments_per_second"] > 0
    assert run.metrics["cut_tokens"] == 0
    assert math.isfinite(run.metrics["validation_mlm_loss"])
    assert not any("nsp" in name or "pairs_per" in name for name in run.metrics)
    assert not any("nsp_loss" in line for line in read_metrics(run.output))
    lines = "\n".join(run.closing_lines())
    assert "NSP" not in lines
    assert "segments/sec" in lines
    report = json.loads((run.output / "corpus.json").read_text())
    assert report["splits"]["train"]["segments"] > 0


def test_its_curves_are_one_panel(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert len(draw_curves(run.output).axes) == 1


def test_it_is_a_masked_language_model_elsewhere(run: Run) -> None:
    folder = run.output / "model"
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM"]
    theirs, report = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ours = bertsmith.load(run.output)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    row = tokenizer("the crane [MASK] a bird", return_tensors="pt")
    with torch.inference_mode():
        expected = theirs.eval()(**row).logits[0, 3].softmax(-1)
    found = ours.fill("the crane [MASK] a bird", top_k=3)[0]
    for word in found:
        place = tokenizer.convert_tokens_to_ids(word.token)
        assert word.probability == pytest.approx(float(expected[place]), abs=1e-5)


def test_it_is_used_as_far_as_it_goes(run: Run, text_file: Path) -> None:
    model = bertsmith.load(run.output)
    assert np.isfinite(model.encode("a crane is flying").cls).all()
    with pytest.raises(InputError, match="nsp_head"):
        model.next_sentence("a crane", "flies")
    found = bertsmith.evaluate(run.output)
    assert found.figures["mlm_loss"] == pytest.approx(run.metrics["validation_mlm_loss"], rel=1e-5)
    assert not any(name.startswith("nsp") for name in found.figures)
    # Its model folder says by itself that it was trained on segments.
    bare = bertsmith.evaluate(run.output / "model", corpus=text_file)
    assert "nsp_loss" not in bare.figures


def test_it_resumes_to_the_same_bytes(run: Run, text_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "parts"
    options = {**MLM, "checkpoint_every": 2}
    bertsmith.pretrain(text_file, output=output, steps=4, quiet=True, **options)
    whole = bertsmith.pretrain(text_file, output=tmp_path / "whole", steps=4, quiet=True, **options)
    weights = [
        (folder / "model" / "model.safetensors").read_bytes() for folder in (output, whole.output)
    ]
    assert weights[0] == weights[1]
    again = bertsmith.pretrain(output=output, resume=True, steps=6, quiet=True)
    assert again.metrics["steps"] == 6


@pytest.mark.parametrize("masking", ["whole-word", "span"])
@pytest.mark.parametrize("tokenizer", ["wordpiece", "bpe", "unigram"])
def test_words_and_spans_are_masked_whatever_the_tokenizer(
    masking: str, tokenizer: str, text_file: Path, tmp_path: Path
) -> None:
    settings = {**MLM, "masking": masking, "tokenizer": tokenizer, "mlm_probability": 0.3}
    if tokenizer == "unigram":  # which counts no words
        del settings["min_frequency"]
    found = bertsmith.pretrain(
        text_file, output=tmp_path / "run", steps=2, quiet=True, vocab_size=300, **settings
    )
    assert math.isfinite(found.metrics["mlm_loss"])
    filled = bertsmith.load(found.output).fill("The crane [MASK] over", top_k=2)[0]
    assert "[MASK]" not in filled[0].text
    assert not any(mark in filled[0].text for mark in ("Ġ", "▁", "##"))


def test_a_length_of_thousands(text_file: Path, tmp_path: Path) -> None:
    options = {**MLM, "max_length": 2048, "max_position_embeddings": 2048, "batch_size": 2}
    run = bertsmith.pretrain(
        text_file,
        output=tmp_path / "run",
        steps=1,
        quiet=True,
        documents="file",
        validation_fraction=0.2,
        **options,
    )
    assert run.metrics["tokens"] / run.metrics["pairs"] > 500


def test_fewer_tokens_are_masked_to_the_end_of_a_run(text_file: Path, tmp_path: Path) -> None:
    settings = {**TINY_RUN, "objective": "mlm", "mlm_probability": 0.4, "log_every": 1}
    shares: dict[int, list[float]] = {}
    for steps in (10, 20):
        config = resolve(
            overrides={**settings, "corpus": str(text_file), "steps": steps}
            | {"mlm_probability_end": 0.1}
        )
        made = prepare(
            config.preparation, config.data, config.training, display=Display(quiet=True)
        ).batches
        found = []
        for number in range(steps):
            batch = made.batch(number)
            words = batch.num_tokens - 2 * batch.num_sequences
            found.append(batch.num_masked / words)
        shares[steps] = found
        expected = [0.4 - 0.3 * (number + 0.5) / steps for number in range(steps)]
        assert found == pytest.approx(expected, abs=0.05)
        # Beyond the budget it stays as at its end; and a batch is made again as it was.
        assert torch.equal(made.batch(3).input_ids, made.batch(3).input_ids)
    assert shares[10][9] < shares[20][9]


def test_a_run_with_fewer_and_fewer_masks_goes_on(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {**TINY_RUN, "objective": "mlm", "steps": 6}
    settings |= {"mlm_probability": 0.4, "mlm_probability_end": 0.1}
    settings |= {"lr_scheduler_type": "warmup_stable_decay", "decay_ratio": 0.5}
    whole = bertsmith.pretrain(text_file, output=tmp_path / "a", quiet=True, **settings)
    again = stopped_and_resumed(text_file, tmp_path / "b", monkeypatch, **settings)
    assert result_of(again.output) == result_of(whole.output)
