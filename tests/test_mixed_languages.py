"""Text in several languages: all of it is looked at, and no part of it loses letters in silence."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from bertsmith.config import PreparationConfig
from bertsmith.config.languages import check_language
from bertsmith.corpus import Document
from bertsmith.corpus.letters import Letters
from bertsmith.data.disk import StoreFolder
from bertsmith.display import Display
from bertsmith.errors import ConfigError, TokenizerError
from bertsmith.preparation.language import Passages, strips_accents
from bertsmith.preparation.prepare import find_store, prepare_store
from bertsmith.preparation.vocabulary import given_tokenizer
from tests.support.texts import WORDS

OTHERS = {
    "uk": "Її дім стоїть біля річки. Йому подобається тихий ранок, і він іде до лісу з другом.",
    "ru": "Старый дом стоит у реки. Каждый тихий вечер мой друг идёт по длинной дороге домой.",
    "fr": "Les élèves étaient près de la forêt. La rivière coulait, où les blés mûrs brûlaient.",
    "cs": "Řeka teče starým městem. Děti si tam hrají každý den a večer běží domů přes náměstí.",
    "ja": "猫が椅子の上で寝ています。バスはまだ来ません。子どもたちは川のそばで遊んでいます。",
    "hi": "पहिले नावँ नदी के किनारे एक पुराना घर है। वहाँ बच्चे हर दिन खेलते हैं।",
}


def english(num_sentences: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=14)).capitalize() + "." for _ in range(num_sentences)]


def documents_of(texts: list[str]) -> list[Document]:
    return [[[text]] for text in texts]


def is_stripped(documents: list[Document], said: list[str] | None = None) -> bool:
    passages = Passages()
    for _ in passages.watch(documents):
        pass
    config = PreparationConfig(corpus=("text",), tokenizer="wordpiece")
    say = [] if said is None else said
    return strips_accents(config, Letters(passages.texts), passages.texts, say=say.append)


def written(folder: Path, first: list[str], then: list[str]) -> Path:
    """A folder in whose first file the first million characters are."""
    folder.mkdir()
    (folder / "a.txt").write_text("\n\n".join(first), encoding="utf-8")
    (folder / "b.txt").write_text("\n\n".join(then), encoding="utf-8")
    assert (folder / "a.txt").stat().st_size > 2**20
    return folder


def prepared(corpus: Path, output: Path, **settings: Any) -> StoreFolder:
    base = {"tokenizer": "wordpiece", "min_frequency": 2, "vocab_size": 400}
    config = PreparationConfig(corpus=(str(corpus),), **{**base, **settings})
    return prepare_store(config, output, display=Display())


@pytest.fixture(scope="module")
def english_first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed") / "text"
    return written(folder, english(15_000), [f"{OTHERS['uk']} {n}" for n in range(5_000)])


@pytest.mark.slow
def test_what_stands_behind_a_million_characters_is_looked_at(
    english_first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = prepared(english_first, tmp_path / "store")
    ids, _ = store.tokenizer(64).encode_text([OTHERS["uk"]])
    found = store.tokenizer(64).decode(ids.tolist())
    assert found.replace(" ", "") == OTHERS["uk"].lower().replace(" ", "")
    said = " ".join(capsys.readouterr().err.split())
    assert "% of the text's letters are Cyrillic, of which some have accents or other" in said
    bound = prepared(english_first, tmp_path / "drawn", tokenizer_sample_bytes=200_000)
    assert (
        json.loads((bound.path / "tokenizer" / "tokenizer.json").read_text())["normalizer"][
            "strip_accents"
        ]
        is False
    )


@pytest.mark.parametrize("is_given", [False, True])
def test_unknown_words_behind_a_million_characters_are_counted(
    is_given: bool, english_first: Path, tmp_path: Path
) -> None:
    first = english(15_000)
    settings: dict[str, Any] = {"tokenizer": "word"}
    if is_given:
        known = tmp_path / "known.txt"
        known.write_text("\n\n".join(first[:200]), encoding="utf-8")
        settings["tokenizer"] = str(prepared(known, tmp_path / "known").path)
    words = [" ".join(f"\u043f{n}\u0436{k}" for k in range(30)) for n in range(12_000)]
    corpus = written(tmp_path / "text", first, words)
    with pytest.raises(TokenizerError, match=r"At least half of a text's words"):
        prepared(corpus, tmp_path / "store", **settings)


@pytest.mark.parametrize("language", OTHERS)
@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
@pytest.mark.parametrize("is_mixed", [False, True])
def test_no_part_loses_letters(language: str, share: float, is_mixed: bool) -> None:
    """Neither of one language after the other, nor of documents in any order."""
    texts = english(3_000)
    texts[: round(share * len(texts))] = [OTHERS[language]] * round(share * len(texts))
    if is_mixed:
        random.Random(1).shuffle(texts)
    said: list[str] = []
    assert not is_stripped(documents_of(texts), said)
    assert len(said) == 1 and "they are kept" in said[0]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (OTHERS["ru"], 0.02),
        (OTHERS["uk"], 0.02),
        (
            "Les enfants jouent près de la maison et le soir ils rentrent chez eux par la longue "
            "route du village voisin, déjà fatigués, et le vent du nord souffle sur les champs.",
            0.08,
        ),
    ],
)
def test_a_part_keeps_letters_that_are_few_in_all(text: str, share: float) -> None:
    texts = english(3_000)
    texts[: round(share * len(texts))] = [text] * round(share * len(texts))
    random.Random(1).shuffle(texts)
    assert Letters(texts).marked_share() < 0.005
    assert not is_stripped(documents_of(texts))


def test_foreign_names_and_words_are_stripped() -> None:
    named = english(3_000)
    named[::40] = ["José and Zoë came by the river with a friend, and the old house was near."] * 75
    named[7] = "The Greek word λόγος and the Russian Толстой are words of other letters."
    assert is_stripped([[named[begin : begin + 20]] for begin in range(0, 3_000, 20)])
    assert is_stripped(documents_of(named))


def test_passages_are_drawn_evenly_and_bounded() -> None:
    pair = itertools.cycle(["a" * 90, "b" * 90])  # every second one would be of one letter
    documents = [*documents_of([next(pair) for _ in range(20_000)]), [["c" * 1_800_000]]]
    passages = Passages(100_000)
    assert list(passages.watch(documents)) == documents
    assert 40_000 <= sum(map(len, passages.texts)) <= 100_000
    text = "".join(passages.texts)
    shares = {letter: text.count(letter) / len(text) for letter in "abc"}
    wanted = {"a": 0.25, "b": 0.25, "c": 0.5}
    assert all(abs(shares[letter] - wanted[letter]) < 0.1 for letter in wanted)
    again = Passages(100_000)
    assert list(again.watch(documents)) and again.texts == passages.texts


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("cmn", r"did you mean zh \(Chinese\)\?"),
        ("swh", r"did you mean sw \(Swahili\)\?"),
        ("kmr", r"did you mean ku \(Kurdish\)\?"),
        ("zsm", r"did you mean ms \(Malay\)\?"),
        ("ekk", r"did you mean et \(Estonian\)\?"),
        ("lvs", r"did you mean lv \(Latvian\)\?"),
        ("arb", r"did you mean ar \(Arabic\)\?"),
        ("pes", r"did you mean fa \(Persian\)\?"),
        ("nob", r"did you mean nb \(Bokmål\)\?"),
        ("bal", r"There are no rules for the language 'bal' .*leave `language` out, or name a rel"),
        ("hne", r"There are no rules for the language 'hne' .*leave `language` out, or name a rel"),
        ("xx", r"There is no language 'xx' .*leave `language` out"),
        ("DE", r"did you mean de \(German\)\?"),
        ("german", r"There is no language 'german' .*did you mean de \(German\)\?"),
    ],
)
def test_codes_without_rules(code: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_language(code)


@pytest.mark.parametrize(
    "change", [{"unk_token": "the"}, {"mask_token": "the"}, {"do_lower_case": False}]
)
def test_what_a_tokenizers_config_says_makes_another_store(
    change: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(english(60)) + "\n\n" + "the the the. " * 20, encoding="utf-8")
    known = prepared(file, tmp_path / "known").path / "tokenizer"
    other = tmp_path / "other"
    shutil.copytree(known, other)
    written_config = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(written_config | change))
    configs = [
        PreparationConfig(corpus=(str(file),), tokenizer=str(folder)) for folder in (known, other)
    ]
    given = [given_tokenizer(config) for config in configs]
    tokenizers = [found and found.tokenizer for found in given]
    assert len({one.sha256() for one in tokenizers if one}) == 1
    first = prepare_store(configs[0])
    assert find_store(configs[0]) is not None
    assert find_store(configs[1]) is None
    assert first.path != prepare_store(configs[1]).path


def test_a_checkpoint_that_was_set_aside_gives_no_tokenizer(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    run = tmp_path / "run"
    names = ["step-00000009", "step-00000010", "step-00000009.damaged", "step-00000011.new"]
    for size, name in enumerate(names):
        file.write_text("\n\n".join(english(200, seed=size)), encoding="utf-8")
        store = prepared(file, tmp_path / name, vocab_size=100 + size)
        shutil.copytree(store.path / "tokenizer", run / "checkpoints" / name)
    found = given_tokenizer(PreparationConfig(corpus=(str(file),), tokenizer=str(run)))
    assert found is not None and found.tokenizer.vocab_size == 101
