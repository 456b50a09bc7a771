"""Texts that nobody expects, to every command: a right result, or one clear line."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.cells import cell_len
from transformers import BertConfig, BertForMaskedLM

import bertsmith
from bertsmith.cli.main import main
from bertsmith.errors import InputError
from bertsmith.inference.model import Encoding, PretrainedModel
from bertsmith.training.run import Run

SURROGATE = os.fsdecode(b"caf\xe9 the crane")
ESCAPE = "the \x1b[31mcrane\x1b[0m\x07 lifts"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop, warnings.catch_warnings():
        warnings.simplefilter("always")
        main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, told.out, told.err


@pytest.fixture(scope="module")
def model(finished_run: Run) -> PretrainedModel:
    return bertsmith.load(finished_run.output, device="cpu")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (("encode", "RUN", ""), 0, None),
        (("encode", "RUN", "   "), 0, None),
        (("encode", "RUN", "qux quux"), 0, "no word that the model knows"),
        (("encode", "RUN", "x" * 100_000), 0, "no word that the model knows"),
        (("encode", "RUN", "the " * 25_000), 0, "of its 25,002 tokens 24,978 were not read"),
        (("encode", "RUN", SURROGATE), 1, "valid Unicode; character 4"),
        (("encode", "RUN", "the", SURROGATE), 1, "valid Unicode"),
        (("encode", "RUN", "the", "--compare", SURROGATE), 1, "valid Unicode"),
        (("fill", "RUN", ""), 1, "must hold [MASK]"),
        (("fill", "RUN", "  "), 1, "must hold [MASK]"),
        (("fill", "RUN", "the crane " * 10_000), 1, "must hold [MASK]"),
        (("fill", "RUN", "[MASK]"), 0, None),
        (("fill", "RUN", "qux [MASK] quux"), 0, "no word that the model knows"),
        (("fill", "RUN", "[MASK] " + "the " * 25_000), 0, "what stands around [MASK]"),
        (("fill", "RUN", f"[MASK] {SURROGATE}"), 1, "valid Unicode"),
        (("fill", "RUN", "a [MASK]", "--top-k", 0), 1, "at least 1; got 0"),
        (("fill", "RUN", "a [MASK]", "--top-k", -3), 1, "at least 1; got -3"),
        (("fill", "RUN", "a [MASK]", "--top-k", 10**9), 0, None),
        (("next", "RUN", "", "a bird"), 1, "one is empty"),
        (("next", "RUN", "a bird", "  "), 1, "one is empty"),
        (("next", "RUN", "qux", "quux"), 0, "no word that the model knows"),
        (("next", "RUN", "the " * 25_000, "a bird"), 0, "were not read"),
        (("next", "RUN", "a", SURROGATE), 1, "valid Unicode"),
        (("similar", "RUN", "FILE", "--word", SURROGATE), 1, "valid Unicode"),
        (("similar", "RUN", "FILE", "--word", "the", "--to", SURROGATE), 1, "valid Unicode"),
        (("similar", "RUN", "FILE", "--word", " "), 1, "must not be empty"),
        (("similar", "RUN", "EMPTY", "--word", "the"), 1, "it is empty"),
        (("similar", "RUN", "FILE", "--word", "the", "--top-k", 0), 1, "at least 1; got 0"),
        (("encode", "RUN", "--input", "EMPTY", "--output", "v.npz"), 1, "it is empty"),
        (("encode", "RUN", "--input", "SPACES", "--output", "v.csv"), 1, "it is empty"),
        (("encode", "RUN", "--input", "NUL", "--output", "v.npz"), 1, "a NUL byte at byte 4"),
        (("encode", "RUN", "--input", "LATIN", "--output", "v.npz"), 1, "must be UTF-8"),
        (("encode", "RUN", "--input", "FILE", "--output", "v.txt"), 1, "must end in"),
    ],
)
def test_what_commands_make_of_it(
    command: tuple[object, ...],
    status: int,
    said: str | None,
    finished_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {
        "FILE": b"the crane lifts\nthe bird waits\n",
        "EMPTY": b"",
        "SPACES": b"  \n\n \n",
        "NUL": b"the \0crane\n",
        "LATIN": b"caf\xe9\n",
    }
    for name, content in contents.items():
        Path(name).write_bytes(content)
    words = [finished_run.output if word == "RUN" else word for word in command]
    for flags in ((), ("--json",)):
        found, out, err = call(capsys, *words, *flags)
        assert found == status, err
        assert "Traceback" not in err
        lines = [line for line in err.splitlines() if line.startswith("bertsmith: ")]
        assert len(lines) == (said is not None), err
        assert said is None or said in lines[0]
        assert (out == "") == (status == 1)
        if status == 0 and flags:
            json.loads(out, parse_constant=lambda word: pytest.fail(word))
    assert {path.name for path in tmp_path.iterdir()} == set(contents)


@pytest.mark.parametrize(
    "text", ["the crane\0lifts", "\0", "\ufeffthe", "\u200b", "e\u0301 \U0001f3d7"]
)
def test_characters_that_are_text_are_read(text: str, model: PretrainedModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model.encode(text)
    assert isinstance(found, Encoding)
    assert np.isfinite(found.tokens).all()


@pytest.mark.parametrize("text", [None, 7, b"the crane", ["the", "crane", 7]])
def test_what_is_no_text_is_refused(text: Any, model: PretrainedModel) -> None:
    with pytest.raises(InputError, match="must be a string"):
        model.encode_one(text)


def test_an_empty_text_is_its_ends(model: PretrainedModel) -> None:
    found = model.encode("")
    assert isinstance(found, Encoding)
    assert found.token_texts == ["[CLS]", "[SEP]"]
    np.testing.assert_array_equal(found.mean, found.tokens.mean(0))


def test_a_model_without_the_head_says_so(
    model: PretrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = BertConfig(
        vocab_size=model.tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    torch.manual_seed(0)
    BertForMaskedLM(theirs).save_pretrained(tmp_path)
    model.tokenizer.save(tmp_path)
    status, out, err = call(capsys, "next", tmp_path, "the crane", "a bird", "--json")
    assert (status, out) == (1, "")
    assert "The model needs its nsp_head to judge a next sentence" in err
    assert call(capsys, "fill", tmp_path, "the [MASK]", "--json")[0] == 0


def is_clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_texts_do_not_speak_to_the_terminal_and_keep_to_their_lines(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run.output
    status, out, _ = call(capsys, "fill", run, f"{ESCAPE}\n[MASK]\u2028x", "--top-k", 2)
    assert status == 0
    assert is_clean(out)
    assert len(out.splitlines()) == 2
    assert "\\x1b[31m" in out
    assert "\\n" in out
    text = "the \x1b[31mcrane\nlifts"
    status, out, _ = call(capsys, "encode", run, text, "--compare", text)
    assert status == 0
    assert is_clean(out)
    assert len([line for line in out.splitlines() if line.startswith("beside: ")]) == 1
    source = tmp_path / "t.txt"
    source.write_text("\x1b[2Jthe crane lifts\u202e\na \x9b crane flies\x7f\n" * 2)
    status, out, _ = call(capsys, "similar", run, source, "--word", "crane")
    assert status == 0
    assert is_clean(out)
    assert len(out.splitlines()) == 2 + 3


def test_columns_stand_under_each_other_by_their_width(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run.output
    _, out, _ = call(capsys, "encode", run, "the 河流 crane")
    rows = [line for line in out.splitlines() if line.endswith("…")]
    assert len({cell_len(line) for line in rows}) == 1
    source = tmp_path / "t.txt"
    source.write_text("河流 the crane lifts\nold the crane lifts\n河 crane lifts\n")
    _, out, _ = call(capsys, "similar", run, source, "--word", "crane")
    places = [cell_len(line[: line.index("[crane]")]) for line in out.splitlines()[2:]]
    assert len(places) == 2
    assert len(set(places)) == 1
