"""Tokenizers from elsewhere: what is read, what is refused, and what others read of ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, BertTokenizer, BertTokenizerFast  # type: ignore[attr-defined]

import bertsmith
from bertsmith.cli.main import main
from bertsmith.config import PreparationConfig
from bertsmith.corpus import Document
from bertsmith.errors import TokenizerError
from bertsmith.preparation.prepare import prepare_store
from bertsmith.tokenizer import SPECIAL_TOKENS, Spelling, Tokenizer, train
from bertsmith.training.run import Run

GPT2 = r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"


def saved(folder: Path, model: Any = None, **parts: Any) -> Path:
    """A tokenizer.json of a few entries, with the parts given."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, "a", "b"])}
    backend = Backend(model or models.WordLevel(vocabulary, unk_token="[UNK]"))
    for name, part in parts.items():
        setattr(backend, name, part)
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    backend.save(str(folder / "tokenizer.json"))
    return folder


def bytes_of(*more: str) -> models.BPE:
    names = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *more]
    return models.BPE({token: number for number, token in enumerate(names)}, [])


def byte_fallback() -> models.BPE:
    names = [*SPECIAL_TOKENS, *(f"<0x{code:02X}>" for code in range(256)), "▁", "a"]
    vocabulary = {token: number for number, token in enumerate(names)}
    return models.BPE(vocabulary, [], unk_token="[UNK]", byte_fallback=True, fuse_unk=True)


PUBLISHED: dict[str, tuple[Any, dict[str, Any]]] = {
    "BERT": (
        None,
        {
            "normalizer": normalizers.BertNormalizer(),
            "pre_tokenizer": pre_tokenizers.BertPreTokenizer(),
        },
    ),
    "RoBERTa, ModernBERT": (
        bytes_of(),
        {
            "normalizer": normalizers.NFC(),
            "pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False),
            "decoder": decoders.ByteLevel(),
        },
    ),
    "Llama 2": (
        byte_fallback(),
        {
            "normalizer": normalizers.Sequence(
                [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            ),
            "decoder": decoders.Sequence(
                [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
            ),
        },
    ),
    "XLM-R, ALBERT": (
        models.Unigram([(token, 0.0) for token in [*SPECIAL_TOKENS, "▁", "a"]], unk_id=1),
        {
            "normalizer": normalizers.Sequence(
                [
                    normalizers.Replace("``", '"'),
                    normalizers.Nmt(),
                    normalizers.NFKC(),
                    normalizers.NFKD(),
                    normalizers.StripAccents(),
                    normalizers.Lowercase(),
                    normalizers.Replace(Regex(" {2,}"), " "),
                ]
            ),
            "pre_tokenizer": pre_tokenizers.Metaspace(),
        },
    ),
    **{
        name: (
            bytes_of(),
            {
                "pre_tokenizer": pre_tokenizers.Sequence(
                    [
                        pre_tokenizers.Split(Regex(pattern), "isolated"),
                        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                    ]
                )
            },
        )
        for name, pattern in {"GPT-2": GPT2, "Llama 3": LLAMA3, "BLOOM": BLOOM}.items()
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tokenizers_are_read(name: str, tmp_path: Path) -> None:
    model, parts = PUBLISHED[name]
    tokenizer = Tokenizer.load(saved(tmp_path, model, **parts), default_max_length=64)
    theirs = Backend.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("A b, a!", "Ünïcode ﷺ 河流", "a" * 200, ""):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode_text([text])[0].tolist() == ids


def times(content: str, count: int) -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Replace("a", content)] * count)


HOSTILE: dict[str, dict[str, Any]] = {
    "100 times as long; it makes some 1,000,000,000 times": {"normalizer": times("a" * 10, 9)},
    "some 5,000 times": {"normalizer": times("a" * 5000, 1)},
    "some 59,049 times": {
        "normalizer": normalizers.Sequence([normalizers.Replace(Regex(""), "xy")] * 10)
    },
    "some 1,024 times": {
        "normalizer": normalizers.Sequence([normalizers.Replace(Regex("x*"), "y")] * 10)
    },
    "`prepend` of its normalizer .* characters; it has 2,000,000": {
        "normalizer": normalizers.Prepend("x" * 2_000_000)
    },
    "`content` of its decoder": {"decoder": decoders.Replace("a", "x" * 20_000)},
    "at most 100 steps; it has 300": {"normalizer": times("a", 300)},
    "plain text: .*retry-limit": {
        "pre_tokenizer": pre_tokenizers.Split(Regex("(a+)+$"), "merged_with_next")
    },
    "plain text: .*retry": {
        "pre_tokenizer": pre_tokenizers.Split(Regex(r"^(\w+\s?)*$"), "isolated")
    },
    "max_input_chars_per_word": {
        "model": models.WordPiece(
            {token: number for number, token in enumerate(SPECIAL_TOKENS)},
            unk_token="[UNK]",
            max_input_chars_per_word=10**9,
        )
    },
}


@pytest.mark.parametrize("message", HOSTILE)
def test_a_small_file_does_not_take_the_machine(
    message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path, **HOSTILE[message])
    with pytest.raises(TokenizerError, match=rf"{tmp_path} is not taken\. .*{message}") as caught:
        Tokenizer.load(folder, default_max_length=64)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_panic_on_a_text_is_an_error(tmp_path: Path) -> None:
    """A pattern that the texts which are tried do not reach."""
    split = pre_tokenizers.Split(Regex("(ω+)+$"), "isolated")
    tokenizer = Tokenizer.load(saved(tmp_path, pre_tokenizer=split), default_max_length=64)
    text = "ω" * 64 + "b"
    calls: list[Any] = [
        lambda: tokenizer.encode(text),
        lambda: tokenizer.encode_text([text]),
        lambda: tokenizer.encode_many([(text, None)]),
        lambda: tokenizer.encode_with_spans(text),
    ]
    for call in calls:
        with pytest.raises(TokenizerError, match="fails on a text: Onig"):
            call()


def test_a_command_says_it_in_one_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved(folder, normalizer=times("a" * 10, 9))
    with pytest.raises(SystemExit) as stop:
        main(["fill", str(folder), "a [MASK]"])
    assert stop.value.code == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "times as long" in said


GERMAN: list[Document] = [
    [["Die schöne Straße, über naïve Flüsse 河流 Łódź.", "Schöne Flüsse fließen 河流 dort."]]
] * 9


@pytest.mark.parametrize("kind", ["word", "wordpiece"])
@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False, None])
def test_berts_own_class_gives_the_same_tokens(
    kind: Any, lowercase: bool, strip_accents: bool | None, tmp_path: Path
) -> None:
    spelling = Spelling(lowercase=lowercase, strip_accents=strip_accents)
    train(GERMAN, kind=kind, spelling=spelling, min_frequency=2, vocab_size=200).save(tmp_path)
    auto = AutoTokenizer.from_pretrained(tmp_path)
    fast = BertTokenizerFast.from_pretrained(tmp_path)
    for text in ("Die schöne Straße, über naïve Flüsse", "河流 Łódź ist SCHÖN", "élève"):
        assert fast.tokenize(text) == auto.tokenize(text)


@pytest.mark.parametrize("cased", [True, False])
def test_a_vocabulary_a_line_is_read_as_bert_reads_it(cased: bool, tmp_path: Path) -> None:
    entries = [*SPECIAL_TOKENS, "the", "crane", "##s", "The", "élan", "elan", "河", "流", ","]
    (tmp_path / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    config = {"do_lower_case": not cased, "model_max_length": 64}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path, default_max_length=512)
    theirs = BertTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.vocab_size, tokenizer.max_length) == (len(entries), 64)
    assert tokenizer.lowercase is not cased
    for text in ("The cranes, élan 河流", "the [MASK] Crane"):
        assert tokenizer.encode(text).ids == theirs(text)["input_ids"]


def test_a_folder_with_neither(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"must hold tokenizer\.json or vocab\.txt"):
        Tokenizer.load(tmp_path, default_max_length=64)


def test_a_run_a_checkpoint_a_model_or_a_store_is_a_tokenizer(
    finished_run: Run, text_file: Path, tmp_path: Path
) -> None:
    store = bertsmith.prepare(
        text_file, tmp_path / "store", tokenizer=str(finished_run.output), quiet=True
    )
    checkpoint = sorted((finished_run.output / "checkpoints").iterdir())[-1]
    stopped = tmp_path / "stopped"  # a run without its last model
    shutil.copytree(checkpoint, stopped / "checkpoints" / checkpoint.name)
    expected = Tokenizer.load(finished_run.output / "model", default_max_length=64).sha256()
    for path in (finished_run.output, checkpoint, finished_run.output / "model", store, stopped):
        config = PreparationConfig(corpus=(str(text_file),), tokenizer=str(path))
        found = prepare_store(config, tmp_path / f"of-{path.name}").tokenizer(4096)
        assert found.sha256() == expected
        assert found.max_length == 4096  # what the other model was trained on does not bound it
