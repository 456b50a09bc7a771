from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from bertsmith.config import TOKENIZERS
from bertsmith.corpus import Document, open_corpus
from bertsmith.errors import TokenizerError
from bertsmith.tokenizer import SPECIAL_TOKENS, Spelling, Tokenizer
from bertsmith.tokenizer import train as learn
from tests.support.texts import SPACED, sentences_of

TEXTS = ["a crane is flying", "The CRANE , lifts!", "unseen wörd [MASK] here", "", "##ing bird's"]


def train(
    kind: str,
    documents: list[Document],
    *,
    min_frequency: int = 1,
    vocab_size: int = 300,
    max_length: int = 512,
    **spelling: object,
) -> Tokenizer:
    return learn(
        documents,
        kind=kind,  # type: ignore[arg-type]
        spelling=Spelling(**spelling),  # type: ignore[arg-type]
        min_frequency=min_frequency,
        vocab_size=vocab_size,
        max_length=max_length,
    )


def test_words_below_the_frequency_are_unknown() -> None:
    tokenizer = train("word", [[["b b b a", "B a c"]]], min_frequency=2)
    assert [tokenizer.token(i) for i in range(tokenizer.vocab_size)] == [*SPECIAL_TOKENS, "b", "a"]
    assert tokenizer.encode("a c").tokens == ["[CLS]", "a", "[UNK]", "[SEP]"]


def test_unknown_words_can_be_shown_as_they_stood(tokenizer: Tokenizer) -> None:
    row = tokenizer.encode("the Krähe flies", "unseen crane")
    assert row.words[1:4] == ["the", "Krähe", "flies"]
    assert row.tokens[1:4] == ["the", "[UNK]", "flies"]
    assert row.words[5:] == ["unseen", "crane", "[SEP]"]


def test_the_mark_for_unknown_words_is_the_unknown_token_and_not_a_word() -> None:
    tokenizer = train("word", [[["a [UNK] b [UNK]", "[UNK]"]]], pretokenized=True)
    assert tokenizer.vocab_size == 7
    ids, lengths = tokenizer.encode_text(["[UNK] a", "b"])
    assert ids.tolist() == [tokenizer.unk_id, *tokenizer.encode("a b").ids[1:3]]
    assert lengths.tolist() == [2, 1]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_text_cannot_say_where_a_sequence_ends(kind: str, documents: list[Document]) -> None:
    tokenizer = train(kind, documents)
    row = tokenizer.encode_text(["the [SEP] crane [MASK] [CLS] [PAD]"])[0].tolist()
    assert set(row).isdisjoint(set(tokenizer.special_ids.tolist()) - {tokenizer.unk_id})
    assert row.count(tokenizer.unk_id) >= 4


def test_case_can_be_kept() -> None:
    assert train("word", [[["A a"]]], lowercase=False).vocab_size == 7
    assert train("word", [[["A a"]]], lowercase=True).vocab_size == 6


def test_punctuation_is_parted_unless_spaces_do_it_already() -> None:
    documents = [[["one, two. @-@"]]]
    assert train("word", documents).encode("one, two.").tokens[1:-1] == ["one", ",", "two", "."]
    kept = train("word", documents, pretokenized=True)
    assert kept.encode("one, @-@").tokens[1:-1] == ["one,", "@-@"]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("lowercase", [True, False])
def test_transformers_gives_the_same_ids(
    kind: str, lowercase: bool, documents: list[Document], tmp_path: Path
) -> None:
    ours = train(kind, documents, lowercase=lowercase, max_length=48)
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (len(theirs), theirs.model_max_length) == (ours.vocab_size, 48)
    assert theirs.mask_token_id == ours.mask_id
    for text in TEXTS:
        for pair in (None, "the old river"):
            ids, segments, _, _ = ours.encode(text, pair)
            found = theirs(text, pair)
            assert found["input_ids"] == ids
            assert found["token_type_ids"] == segments
    again = Tokenizer.load(tmp_path, default_max_length=512)
    assert (again.max_length, again.vocab_size) == (48, ours.vocab_size)
    assert [again.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_training_is_deterministic(kind: str, documents: list[Document], tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        train(kind, documents).save(tmp_path / name)
        texts.append((tmp_path / name / "tokenizer.json").read_text())
    assert texts[0] == texts[1]


def test_a_pair_is_laid_out_as_bert_has_it(tokenizer: Tokenizer) -> None:
    ids, segments, tokens, _ = tokenizer.encode("the crane", "a bird")
    assert tokens == ["[CLS]", "the", "crane", "[SEP]", "a", "bird", "[SEP]"]
    assert segments == [0, 0, 0, 0, 1, 1, 1]
    assert ids[0] == tokenizer.cls_id


def test_wordpieces_join_again(documents: list[Document]) -> None:
    tokenizer = train("wordpiece", documents)
    assert tokenizer.decode(tokenizer.encode("the crane lifts").ids) == "the crane lifts"


def test_wordpieces_cover_the_text(documents: list[Document]) -> None:
    tokenizer = train("wordpiece", documents)
    assert tokenizer.unk_id not in tokenizer.encode_text(sentences_of(documents))[0]


def test_a_text_without_frequent_words() -> None:
    with pytest.raises(TokenizerError, match="at least 5 times"):
        train("word", [[["a b c"]]], min_frequency=5)


@pytest.mark.parametrize("content", [None, "{", '{"model": 3}', "[" * 100_000])
def test_damaged_folders(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer") as caught:
        Tokenizer.load(tmp_path, default_max_length=512)
    assert "\n" not in str(caught.value)


def test_wikitext_has_20256_words(wikitext: Path) -> None:
    corpus = open_corpus([str(wikitext)])
    tokenizer = learn(corpus.read("train"), kind="word", spelling=SPACED, min_frequency=5)
    assert corpus.pretokenized
    assert tokenizer.vocab_size == 20_256
    assert tokenizer.encode("<unk>").tokens == ["[CLS]", "[UNK]", "[SEP]"]


def of_others(folder: Path, names: list[str], **model: Any) -> Path:
    """A byte-level tokenizer with special tokens of other names, as RoBERTa's, and no config."""
    backend = Backend(models.BPE(**model))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        **model,
    )
    backend.train_from_iterator(["the crane lifts a beam , the bird flies"] * 9, trainer)
    backend.save(str(folder / "tokenizer.json"))
    return folder


def test_special_tokens_may_have_other_names(tmp_path: Path) -> None:
    folder = of_others(tmp_path, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer = Tokenizer.load(folder, default_max_length=32)
    assert (tokenizer.cls, tokenizer.sep, tokenizer.mask) == ("<s>", "</s>", "<mask>")
    assert tokenizer.joins_by_space
    tokenizer.save(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs.mask_token_id == tokenizer.mask_id
    for text in ("the crane <mask> a beam", "Bird!"):
        assert theirs(text)["input_ids"] == tokenizer.encode(text).ids
    ids, _ = tokenizer.encode_text(["the </s> crane [UNK]"])
    assert set(ids.tolist()) & set(tokenizer.special_ids.tolist()) == {tokenizer.unk_id}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<pad>"})
    )
    again = Tokenizer.load(folder, default_max_length=32)
    assert [again.cls, again.sep, again.unk] == ["<s>", "</s>", "<unk>"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["<a:b>", "<pad>", "</s>", "<unk>", "<mask>"], "cannot have '<a:b>'"),
        (["<s>", "<pad>", "</s>", "<unk>"], r"must have .*\[MASK\]"),
    ],
)
def test_tokenizers_that_do_not_serve(names: list[str], message: str, tmp_path: Path) -> None:
    folder = of_others(tmp_path, names)
    (folder / "tokenizer_config.json").write_text(json.dumps({"cls_token": names[0]}))
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(folder, default_max_length=32)


def test_words_that_are_told_by_their_ends_are_not_masked_whole(tmp_path: Path) -> None:
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer.load(
        of_others(tmp_path, names, end_of_word_suffix="</w>"), default_max_length=32
    )
    with pytest.raises(TokenizerError, match="marks how they end"):
        tokenizer.continues_word()


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_what_goes_on_with_a_word(kind: str, documents: list[Document]) -> None:
    tokenizer = train(kind, [*documents, [["unlike cranes, unliked beams!"]]], vocab_size=320)
    continues = tokenizer.continues_word()
    row = tokenizer.encode("the cranes, unliked!")
    words, word = [], ""
    for number, token in zip(row.ids[1:-1], row.tokens[1:-1], strict=True):
        if word and not continues[number]:
            words.append(word)
            word = ""
        word += token.removeprefix("##").strip("\u0120\u2581")
    assert [*words, word] == ["the", "cranes", ",", "unliked", "!"]
    assert not continues[tokenizer.special_ids].any()
    for number in np.flatnonzero(continues)[:20]:
        assert tokenizer.text_of(int(number))[1]


def test_chinese_characters_are_words(tmp_path: Path) -> None:
    text = [[["起重机在河边工作", "今天的风很大"]]]
    for kind in ("bpe", "unigram"):
        tokenizer = train(kind, text, vocab_size=320, pre_tokenization="characters")
        ids = tokenizer.encode("起重机").ids[1:-1]
        words = np.count_nonzero(~tokenizer.continues_word()[ids])
        assert words <= 4  # the mark of the space before them is one
        assert tokenizer.decode(ids) == "起重机"
