"""Words added to the vocabulary of a model that is gone on from (`--add-tokens`)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
)

import bertsmith
from bertsmith.cli.main import main
from bertsmith.config import PreparationConfig
from bertsmith.data.disk import open_store
from bertsmith.errors import ConfigError, DataError, TokenizerError
from bertsmith.preparation import prepare_store
from bertsmith.tokenizer import SPECIAL_TOKENS, Spelling, Tokenizer, train
from bertsmith.tokenizer.added import extended
from tests.support.runs import result_of, stopped_and_resumed
from tests.support.texts import make_documents, sentences_of, write_text

WORDS = ["zirconium", "Metformin", "crane lifts", "C++", "二甲双胍", "โรคเบาหวาน"]
STILL: dict[str, Any] = {"steps": 1, "learning_rate": 1e-12, "muon_learning_rate": 1e-12}
FAST: dict[str, Any] = {"batch_size": 8, "device": "cpu", "quiet": True}


def make(kind: Any, *, lowercase: bool = True) -> Tokenizer:
    return train(
        [[["the crane lifts metal, zircon of iron met formal", "C + * - 二 甲"] * 3]],
        kind=kind,
        spelling=Spelling(lowercase=lowercase),
        min_frequency=1,
        vocab_size=300,
        max_length=64,
    )


def words_file(folder: Path, words: list[str]) -> Path:
    file = folder / "words.txt"
    file.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def own_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents in which words of a field stand among others."""
    path = write_text(tmp_path_factory.mktemp("text") / "own.txt", make_documents())
    text = path.read_text()
    path.write_text(text.replace("beam", "zirconium").replace("winter", "metformin"))
    return path


def modern_folder(folder: Path) -> Path:
    """A random ModernBERT as transformers writes it, with a BPE as the published ones have."""
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    learns = trainers.BpeTrainer(
        vocab_size=350,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|padding|>", *SPECIAL_TOKENS],
        show_progress=False,
    )
    backend.train_from_iterator(sentences_of(make_documents()), learns)
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS},
        model_max_length=64,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=352,  # more rows than entries, as published
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=64,
        local_attention=8,
        pad_token_id=backend.token_to_id("[PAD]"),
        cls_token_id=backend.token_to_id("[CLS]"),
        sep_token_id=backend.token_to_id("[SEP]"),
        bos_token_id=backend.token_to_id("[CLS]"),
        eos_token_id=backend.token_to_id("[SEP]"),
    )
    model = ModernBertForMaskedLM(config)
    torch.nn.init.normal_(model.decoder.bias)
    model.save_pretrained(folder)
    return folder


def bert_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    folder.mkdir()
    letters = [[["abcdefghijklmnopqrstuvwxyz"] * 2]]
    tokenizer = train(
        [*make_documents(), *letters],
        kind="wordpiece",
        spelling=Spelling(),
        min_frequency=2,
        vocab_size=120,
        max_length=64,
    )
    tokenizer.save(folder)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    model = BertForMaskedLM(config)
    torch.nn.init.normal_(model.cls.predictions.bias)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["word", "wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_each_word_is_found_as_one(kind: str, lowercase: bool, tmp_path: Path) -> None:
    before = make(kind, lowercase=lowercase)
    found = extended(before, words_file(tmp_path, WORDS))
    after = found.tokenizer
    assert (found.tokens, found.num_known) == (WORDS, 0)
    assert after.vocab_size == before.vocab_size + len(WORDS)
    assert after.added_since(before) == WORDS
    text = "the zirconium, Metformin. crane lifts (C++) zirconiums metformin 用二甲双胍治"
    tokens = after.encode(text).tokens
    count = {word: sum(token.lower() == word.lower() for token in tokens) for word in WORDS}
    assert count == {
        "zirconium": 1,  # not inside another word
        "Metformin": 2 if lowercase else 1,
        "crane lifts": 1,
        "C++": 1,
        "二甲双胍": 1,
        "โรคเบาหวาน": 0,
    }
    numbers = range(before.vocab_size, after.vocab_size)
    assert not after.continues_word()[numbers].any()
    assert all(after.text_of(number)[1] is False for number in numbers)
    after.save(tmp_path)
    assert Tokenizer.load(tmp_path, default_max_length=64).sha256() == after.sha256()
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(text)["input_ids"] == after.encode(text).ids


@given(st.text(st.sampled_from("the crane,二C+ .zr\n"), max_size=40))
def test_a_text_without_them_is_read_as_before(text: str) -> None:
    before = make("bpe")
    after = before.with_added(["zirconium", "lead"])
    assert after.encode(text).ids == before.encode(text).ids


def test_what_is_an_entry_is_not_added_again(tmp_path: Path) -> None:
    before = make("wordpiece")
    known = ["the", "The", "[MASK]", "crane"]
    found = extended(before, words_file(tmp_path, ["Tin", "", "tin", " tin ", *known]))
    assert (found.tokens, found.num_known) == (["Tin"], 6)
    assert before.added_since(found.tokenizer) is None
    assert before.added_since(before) == []
    assert make("bpe").added_since(before) is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\n \n", "must have tokens to add, one a line; it has none"),
        (b"zinc\n" + b"a" * 101, "line 2: a token must be at most 100 printable characters"),
        (b"zi\x07nc", "line 1: a token must be at most 100 printable"),
        (b"\xff\xfe", "Cannot read the tokens to add from"),
        (None, "Cannot read the tokens to add from .*words.txt: No such file"),
    ],
)
def test_a_file_that_is_none_of_tokens_is_refused(
    content: bytes | None, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "words.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TokenizerError, match=says):
        extended(make("bpe"), file)


@pytest.mark.parametrize("folder_of", [modern_folder, bert_folder])
def test_new_rows_begin_at_the_mean_of_their_pieces(
    folder_of: Any, own_text: Path, tmp_path: Path
) -> None:
    model = folder_of(tmp_path / "model")
    run = bertsmith.pretrain(
        own_text,
        init_from=model,
        add_tokens=str(words_file(tmp_path, ["zirconium", "metformin", "\U0001f9ea"])),
        output=tmp_path / "run",
        **STILL,
        **FAST,
    )
    theirs = AutoModelForMaskedLM.from_pretrained(run.output / "model")
    tokenizer = AutoTokenizer.from_pretrained(run.output / "model")
    before = AutoTokenizer.from_pretrained(model)
    first = before.vocab_size if folder_of is bert_folder else len(before)
    assert len(tokenizer) == first + 3
    assert theirs.config.vocab_size == max(first + 3, 352 if folder_of is modern_folder else 0)
    named = AutoModelForMaskedLM.from_pretrained(model).state_dict()
    for name, old in named.items():
        new = theirs.state_dict()[name]
        if len(old) not in (len(before), 352):
            torch.testing.assert_close(new, old, atol=1e-6, rtol=0, msg=name)
            continue
        torch.testing.assert_close(new[:first], old[:first], atol=1e-6, rtol=0, msg=name)
        for number, word in enumerate(["zirconium", "metformin"], first):
            space = " " if folder_of is modern_folder else ""
            pieces = before(space + word, add_special_tokens=False)["input_ids"]
            assert len(pieces) > 1
            expected = old[pieces].mean(dim=0)
            torch.testing.assert_close(new[number], expected, atol=1e-6, rtol=0, msg=name)
        assert new[first + 2].abs().sum() > 0  # of what was unknown: the mean of all
    ids = tokenizer("old zirconium bird")["input_ids"]
    assert first in ids
    found: Any = bertsmith.load(run.output, device="cpu").fill("the old [MASK] lifts")
    assert found


def test_a_run_with_added_tokens_goes_on_without_the_file(
    own_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "init_from": modern_folder(tmp_path / "model"),
        "add_tokens": str(words_file(tmp_path, ["zirconium", "metformin"])),
        "masking": "whole-word",
        "batch_size": 8,
        "device": "cpu",
        "steps": 6,
        "checkpoint_every": 2,
        "max_length": 96,
        "max_position_embeddings": 128,
    }
    whole = bertsmith.pretrain(own_text, output=tmp_path / "a", quiet=True, **settings)
    again = stopped_and_resumed(own_text, tmp_path / "b", monkeypatch, **settings)
    assert result_of(again.output) == result_of(whole.output)
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "words.txt").unlink()
    longer = bertsmith.pretrain(output=whole.output, resume=True, steps=8, quiet=True)
    assert longer.metrics["steps"] == 8
    config = ModernBertConfig.from_pretrained(longer.output / "model")
    assert (config.max_position_embeddings, config.vocab_size) == (128, 352)
    figures = bertsmith.evaluate(longer.output, corpus=own_text, device="cpu").figures
    assert figures["mlm_loss"]


def test_the_text_may_be_prepared_with_them(
    own_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, store = bert_folder(tmp_path / "model"), tmp_path / "store"
    words = words_file(tmp_path, ["zirconium", "old", "rhenium"])
    named = ["--tokenizer", str(model), "--add-tokens", str(words)]
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "--corpus", str(own_text), "--output", str(store), *named])
    assert ended.value.code == 0
    said = capsys.readouterr().err
    assert "Tokens added to the tokenizer: 2; in it already: 1." in said
    assert "nothing is learned of them: 1 of the 2 added tokens (rhenium)." in said
    bertsmith.pretrain(store, init_from=model, output=tmp_path / "run", **STILL, **FAST)
    rows = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert rows["cls.predictions.bias"].shape == (open_store(store).manifest.vocab_size,)
    with pytest.raises(DataError, match="it has another tokenizer"):
        other = modern_folder(tmp_path / "other")
        bertsmith.pretrain(store, init_from=other, output=tmp_path / "no", **STILL, **FAST)
    with pytest.raises(ConfigError, match=r"was prepared with `add_tokens` = .*, and 'else.txt'"):
        bertsmith.pretrain(store, init_from=model, add_tokens="else.txt", **STILL, **FAST)


def test_a_vocabulary_that_is_trained_has_nothing_to_add_to(own_text: Path) -> None:
    with pytest.raises(ConfigError, match="`add_tokens` must have a tokenizer to add to"):
        bertsmith.pretrain(own_text, add_tokens="words.txt", **STILL, **FAST)


def test_the_store_of_a_tokenizer_is_found_by_what_was_added(
    own_text: Path, tmp_path: Path
) -> None:
    model = bert_folder(tmp_path / "model")
    words = words_file(tmp_path, ["zirconium"])
    config = PreparationConfig(corpus=(str(own_text),), tokenizer=str(model), add_tokens=str(words))
    first = prepare_store(config)
    again = prepare_store(config)
    words.write_text("metformin\n")
    other = prepare_store(config)
    assert first.path == again.path != other.path
