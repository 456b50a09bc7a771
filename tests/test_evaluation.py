"""The figures of an evaluation beside what they are by definition."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

import bertsmith
from bertsmith.architectures.bert.network import Bert
from bertsmith.cli.main import main
from bertsmith.config import DataConfig
from bertsmith.corpus import Document
from bertsmith.data.store import TokenStore, build_store, log_shares
from bertsmith.evaluation.held_out import Evaluation, evaluate, evaluation_batches
from bertsmith.evaluation.pseudo import pseudo_perplexity
from bertsmith.evaluation.tally import COUNTS, LENGTHS, Bin
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.run import Run
from tests.support.objective import OBJECTIVE, scores_of

CPU = torch.device("cpu")


@pytest.fixture
def counts(tokenizer: Tokenizer) -> np.ndarray:
    """Of a text in which words are of very different frequency."""
    found = (1.5 ** np.arange(tokenizer.vocab_size)).astype(np.int64)
    found[tokenizer.special_ids] = 0
    return found


@pytest.fixture
def found(
    tiny_model: Bert, store: TokenStore, tokenizer: Tokenizer, counts: np.ndarray
) -> Evaluation:
    batches = evaluation_batches(store, tokenizer, DataConfig(max_length=24))
    assert batches is not None
    return evaluate(tiny_model, OBJECTIVE, batches, device=CPU, micro_batch=7, counts=counts)


def mean(bins: tuple[Bin, ...], name: str) -> float:
    total = sum(part.num_tokens for part in bins)
    return sum(part.num_tokens * getattr(part, name) for part in bins) / total


def test_bins_add_up_to_the_whole(found: Evaluation) -> None:
    for bins in (found.by_length, found.by_frequency):
        assert len(bins) > 1
        assert sum(part.num_tokens for part in bins) == found.num_masked_tokens
        assert mean(bins, "loss") == pytest.approx(found.figures["mlm_loss"])
        assert mean(bins, "accuracy") == pytest.approx(found.figures["mlm_accuracy"])
        assert mean(bins, "unigram_loss") == pytest.approx(found.figures["unigram_mlm_loss"])


def test_figures_are_what_they_are_called(
    found: Evaluation,
    tiny_model: Bert,
    store: TokenStore,
    tokenizer: Tokenizer,
    counts: np.ndarray,
) -> None:
    batches = evaluation_batches(store, tokenizer, DataConfig(max_length=24))
    assert batches is not None
    every = batches.examples(np.arange(batches.num_examples))
    judged: Any = scores_of(tiny_model, every)
    losses, labels = judged["mlm"].losses.double().numpy(), every.masked_labels.numpy()
    assert found.figures["mlm_loss"] == pytest.approx(losses.mean(), rel=1e-6)
    assert found.figures["mlm_perplexity"] == pytest.approx(math.exp(losses.mean()), rel=1e-6)
    assert found.figures["mlm_accuracy"] == pytest.approx(
        judged["mlm"].correct.double().mean().item()
    )
    assert found.figures["nsp_loss"] == pytest.approx(judged["nsp"].losses.mean().item(), rel=1e-5)
    assert found.figures["nsp_accuracy"] == pytest.approx(
        judged["nsp"].correct.double().mean().item()
    )
    random = every.sequence_labels.double().mean().item()
    assert found.figures["nsp_majority_accuracy"] == max(random, 1 - random)
    assert found.figures["unigram_mlm_loss"] == pytest.approx(
        -log_shares(counts)[labels].mean(), rel=1e-6
    )
    assert found.figures["unigram_mlm_accuracy"] == np.mean(labels == counts.argmax())
    for part in found.by_frequency:
        most = math.inf if part.most is None else part.most
        inside = (counts[labels] >= part.least) & (counts[labels] <= most)
        assert part.num_tokens == inside.sum()
        assert part.loss == pytest.approx(losses[inside].mean(), rel=1e-6)
    lengths = np.repeat(np.array(every.lengths), every.num_masked_each)
    shortest = found.by_length[0]
    assert shortest.most is not None
    inside = (lengths >= shortest.least) & (lengths <= shortest.most)
    assert shortest.num_tokens == inside.sum()


def test_without_word_counts_there_is_no_floor(
    tiny_model: Bert, store: TokenStore, tokenizer: Tokenizer
) -> None:
    batches = evaluation_batches(store, tokenizer, DataConfig(max_length=24))
    assert batches is not None
    found = evaluate(tiny_model, OBJECTIVE, batches, device=CPU, micro_batch=64)
    assert not any(name.startswith("unigram") for name in found.figures)
    assert found.by_frequency == ()
    assert found.by_length[0].unigram_loss is None
    assert not any("unigram" in name for name in found.metrics())


def test_bins_begin_where_they_say() -> None:
    for starts in (LENGTHS, COUNTS):
        assert (np.diff(starts) > 0).all()
    assert (
        Bin(least=17, most=32, num_tokens=1, loss=0, accuracy=0, unigram_loss=None).name == "17–32"
    )


def test_pseudo_perplexity_is_that_of_transformers(
    folder: Path, tiny_model: Bert, documents: list[Document], tokenizer: Tokenizer
) -> None:
    theirs = BertForMaskedLM.from_pretrained(folder).eval()
    sentences = ["the crane lifts a beam", "a bird zzz flies"]
    store, _ = build_store([[sentences]], tokenizer)
    found = pseudo_perplexity(
        tiny_model, store, tokenizer, num_sentences=9, device=CPU, tokens_at_once=20
    )
    losses = []
    for sentence in sentences:
        ids = torch.tensor(tokenizer.encode(sentence).ids)
        for place in range(1, len(ids) - 1):
            if ids[place] == tokenizer.unk_id:
                continue
            masked = ids.clone()
            masked[place] = tokenizer.mask_id
            with torch.no_grad():
                scores = theirs(input_ids=masked[None]).logits[0, place].log_softmax(-1)
            losses.append(-scores[ids[place]].item())
    assert (found.num_sentences, found.num_tokens, found.num_unknown_tokens) == (2, 8, 1)
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    assert sum(part.num_tokens for part in found.by_length) == 8


def test_sentences_are_the_same_for_every_model_and_long_ones_are_left_out(
    tiny_model: Bert, store: TokenStore, tokenizer: Tokenizer, counts: np.ndarray
) -> None:
    tokenizer = copy.copy(tokenizer)
    tokenizer.max_length = 10
    some, other = (
        pseudo_perplexity(
            model,
            store,
            tokenizer,
            num_sentences=20,
            device=CPU,
            tokens_at_once=64,
            counts=counts,
        )
        for model in (tiny_model, Bert(tiny_model.config, tokenizer.vocab_size))
    )
    assert some.num_sentences == 20
    assert some.num_long_sentences > 0
    assert some.num_tokens == other.num_tokens
    assert some.unigram_loss == other.unigram_loss
    assert all(part.most is None or part.most <= 16 for part in some.by_length)
    assert sum(part.num_tokens for part in some.by_frequency) == some.num_tokens


def test_the_command_prints_a_table_and_json(
    finished_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(finished_run.output)
    for flags in (["--json"], []):
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", run, "--sentences", "5", *flags])
        assert stop.value.code == 0
        out = capsys.readouterr().out
        if flags:
            figures = json.loads(out.splitlines()[-1])
            assert figures["validation_pseudo"]["num_sentences"] == 5
            assert figures["validation_by_length"][0]["num_tokens"] > 0
            assert figures["validation_mlm_loss"] == pytest.approx(
                finished_run.metrics["validation_mlm_loss"], rel=1e-5
            )
        else:
            for words in ("MLM perplexity", "word frequencies alone", "pseudo-perplexity", "NSP"):
                assert words in out


def test_runs_of_other_examples_can_be_judged_on_the_same(
    finished_run: Run, text_file: Path, tmp_path: Path
) -> None:
    other = bertsmith.pretrain(
        text_file,
        init_from=str(finished_run.output),
        pairing="filled",
        max_length=20,
        output=tmp_path / "other",
        steps=1,
        batch_size=8,
        device="cpu",
        quiet=True,
    )
    same = {"pairing": "filled", "max_length": 16, "device": "cpu"}
    one, two = (bertsmith.evaluate(path, **same) for path in (finished_run.output, other.output))  # type: ignore[arg-type]
    assert one.num_pairs == two.num_pairs
    assert one.figures["unigram_mlm_loss"] == two.figures["unigram_mlm_loss"]
    assert one.figures["mlm_loss"] != two.figures["mlm_loss"]
    alone = bertsmith.evaluate(finished_run.output, objective="mlm", device="cpu")
    assert "nsp_loss" not in alone.figures
    with pytest.raises(bertsmith.BertsmithError, match="max_length"):
        bertsmith.evaluate(finished_run.output, max_length=512, device="cpu")


def test_word_counts_are_of_the_training_text_or_said_to_be_others(
    finished_run: Run, text_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("the crane lifts. the bird flies.\n" * 9)
    of_run = bertsmith.evaluate(finished_run.output, corpus=other, device="cpu")
    assert of_run.counts_of == "training text"
    alone = tmp_path / "alone"
    shutil.copytree(finished_run.output / "model", alone)
    bare = bertsmith.evaluate(alone, corpus=other, device="cpu")
    assert bare.counts_of == "evaluated text"
    assert bare.figures["unigram_mlm_loss"] is not None
    assert of_run.figures["unigram_mlm_loss"] is not None
    assert bare.figures["unigram_mlm_loss"] < of_run.figures["unigram_mlm_loss"]


def test_without_a_sentence_that_fits_there_is_no_pseudo_perplexity(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "long.txt"
    text.write_text(("the old crane lifts a beam over river " * 9 + ". ") * 4)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(finished_run.output), "--corpus", str(text), "--objective", "mlm"])
    assert stop.value.code == 0
    told = capsys.readouterr()
    assert "no pseudo-perplexity" in told.err
    assert "pseudo" not in told.out


def test_a_negative_number_of_sentences_is_refused(
    finished_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(finished_run.output), "--sentences", "-1"])
    assert stop.value.code == 1
    assert "sentences" in capsys.readouterr().err


def test_the_closing_figures_have_the_floor(finished_run: Run) -> None:
    metrics = finished_run.metrics
    assert metrics["validation_unigram_mlm_loss"] > 0
    assert 0.5 <= metrics["validation_nsp_majority_accuracy"] <= 1
    found = bertsmith.evaluate(finished_run.output, device="cpu")
    assert found.figures["unigram_mlm_loss"] == pytest.approx(
        metrics["validation_unigram_mlm_loss"]
    )
