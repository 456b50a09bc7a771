"""Text in any language: what is kept of its letters, and what is said of it."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

import bertsmith
from bertsmith.config import PreparationConfig, resolve
from bertsmith.config.languages import NAMES, check_language, languages_in, scripts_of
from bertsmith.corpus.letters import Letters, count_mixed_words, script_of
from bertsmith.data.disk import StoreFolder
from bertsmith.errors import ConfigError, TokenizerError
from bertsmith.preparation.prepare import prepare_store
from tests.support.runs import TINY_RUN
from tests.support.texts import WORDS

TEXTS = {
    "hi": "पहिले नावँ नदी के किनारे एक पुराना घर है। वहाँ बच्चे हर दिन खेलते हैं।",
    "uk": "Її дім стоїть біля річки. Йому подобається тихий ранок.",
    "vi": "Con sông chảy qua thành phố cổ. Trẻ em chơi ở đó mỗi ngày.",
    "th": "แม่น้ำไหลผ่านเมืองเก่า เด็กๆ เล่นที่นั่นทุกวัน",
    "ja": "猫が椅子の上で寝ています。バスはまだ来ません。",
    "ko": "강이 오래된 도시를 지난다. 아이들이 날마다 논다.",
    "ar": "يَجْرِي النَّهْرُ عَبْرَ المَدِينَةِ القَدِيمَةِ. يَلْعَبُ الأَطْفَالُ.",
    "el": "Το ποτάμι περνά από την παλιά πόλη. Τα παιδιά παίζουν εκεί.",
    "cs": "Řeka teče starým městem. Děti si tam hrají každý den.",
    "tr": "Nehir eski şehrin içinden geçiyor. Çocuklar her gün orada oynuyor.",
    "de": "Die Flüsse fließen schnell. Schöne Häuser stehen am Ufer.",
    "fr": "Les élèves étaient près de la forêt. La rivière coulait.",
}

ENGLISH = "The crane lifts a beam over the old river while the driver waits near the small house. "
NAMED = f"{ENGLISH * 6}Then José and Zoë came. {ENGLISH * 6}"
"""English as encyclopedias write it: two letters in a thousand have accents."""


def prepared(text: str, folder: Path, **settings: Any) -> StoreFolder:
    file = folder / "text.txt"
    file.write_text("\n\n".join([text] * 20), encoding="utf-8")
    base = {"min_frequency": 2, "vocab_size": 400, "tokenizer": "wordpiece"}
    config = PreparationConfig(corpus=(str(file),), **{**base, **settings})
    return prepare_store(config, folder / "store")


def pieces_of(store: StoreFolder) -> str:
    return "".join(store.manifest.report["vocabulary"]["sample"])


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("is_stated", [True, False])
def test_no_language_loses_letters(language: str, is_stated: bool, tmp_path: Path) -> None:
    stated = language if is_stated else None
    store = prepared(TEXTS[language], tmp_path, language=stated)
    assert store.manifest.report["splits"]["train"]["unknown_tokens"] == 0
    ids, _ = store.tokenizer(64).encode_text([TEXTS[language]])
    found = store.tokenizer(64).decode(ids.tolist())
    # Lower-casing is Unicode's own, letter by letter.
    assert found.replace(" ", "") == TEXTS[language].lower().replace(" ", "")


@pytest.mark.parametrize("language", ["en", None])
def test_english_is_stripped_of_the_accents_of_foreign_names(
    language: str | None, tmp_path: Path
) -> None:
    assert 0 < Letters([NAMED]).marked_share() < 0.005
    store = prepared(NAMED, tmp_path, language=language)
    ids, _ = store.tokenizer(64).encode_text(["José and Zoë came"])
    assert store.tokenizer(64).decode(ids.tolist()) == "jose and zoe came"


def test_wikitext_has_few_accents(wikitext: Path) -> None:
    text = (wikitext / "wiki.train.tokens").read_text(encoding="utf-8")
    size = len(text) // 8
    parts = [text[begin : begin + size] for begin in range(0, len(text), size)]
    assert max(Letters([part]).marked_share() for part in parts) < 0.002


def test_what_is_asked_for_is_done(tmp_path: Path) -> None:
    store = prepared(TEXTS["fr"], tmp_path, strip_accents=True)
    assert "eleves" in pieces_of(store).replace("##", "").replace(" ", "")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ua", r"'ua' .*did you mean uk \(Ukrainian\)\?"),
        ("jp", r"did you mean ja \(Japanese\)\?"),
        ("deu", r"did you mean de \(German\)\?"),
        ("xx", r"There is no language 'xx'"),
        ("qqq", r"leave `language` out"),
    ],
)
def test_a_language_that_there_is_not(code: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared(ENGLISH, tmp_path, language=code)
    assert not (tmp_path / "store").exists()


def test_codes_and_their_scripts() -> None:
    for code in (*NAMES, "yue", "ceb", "zh-hant", "pt-BR"):
        check_language(code)
        assert scripts_of(code)
    assert scripts_of("sr") == {"Cyrillic", "Latin"}
    assert scripts_of("fr") == {"Latin"}
    for code, text in TEXTS.items():
        assert {script_of(c) for c in text if c.isalpha()} <= scripts_of(code)
    assert languages_in("Cyrillic")[:2] == ["ru", "uk"]


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [
        ("ru", ENGLISH, "--language ru says that the text is Russian .*letters are Latin"),
        ("en", TEXTS["hi"], "--language en says that the text is English .*Devanagari"),
        (None, TEXTS["hi"], "Devanagari; .*as English ones are. .*such as hi"),
        (None, TEXTS["cs"], "accents or other marks: they are kept"),
        (None, ENGLISH, None),
        ("sr", ENGLISH, None),
        ("ja", TEXTS["ja"], None),
    ],
)
def test_what_the_text_is_not_in_is_said(
    language: str | None,
    text: str,
    message: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join([text] * 20), encoding="utf-8")
    bertsmith.prepare(
        file, tmp_path / "store", tokenizer="wordpiece", min_frequency=2, language=language
    )
    said = capsys.readouterr().err.replace("\n", " ")
    assert ("letters" in said) == (message is not None)
    if message:
        assert re.search(message, said)


DNA = "\n".join("ACGTTGCAAGCTTAGGCTAACG" * 6 for _ in range(9))


@pytest.mark.parametrize(
    ("text", "tokenizer", "message"),
    [
        (
            "".join(f"河流{chr(0x4E00 + n)}城市。" for n in range(60)),
            "word",
            "Chinese writing: take --tokenizer bpe or unigram, or",
        ),
        (
            "\n".join([TEXTS["th"].replace(" ", "") * 4] * 9),
            "wordpiece",
            "Thai writing: .*--pre-tokenization char",
        ),
        (DNA, "wordpiece", "Take --tokenizer bpe"),
        (
            "the " * 9 + " ".join(f"w{n}" for n in range(300)),
            "word",
            "Take pieces of words .*--min-frequency",
        ),
    ],
)
def test_text_that_a_vocabulary_does_not_know_is_refused(
    text: str, tokenizer: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "text.txt"
    file.write_text(text + "\n\nA b.\n", encoding="utf-8")
    config = PreparationConfig(
        corpus=(str(file),), tokenizer=tokenizer, validation_fraction=0, min_frequency=5
    )
    with pytest.raises(TokenizerError, match=rf"half of .*% of them are unknown\. .*{message}"):
        prepare_store(config, tmp_path / "store")
    better = PreparationConfig(
        corpus=(str(file),), tokenizer="bpe", vocab_size=400, validation_fraction=0
    )
    assert prepare_store(better, tmp_path / "store").damage() == []


def test_a_given_tokenizer_is_held_against_the_text(tmp_path: Path) -> None:
    store = prepared(ENGLISH, tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(TokenizerError, match="Take a tokenizer of the text's language"):
        prepared(TEXTS["uk"], tmp_path / "other", tokenizer=str(store.path))


def test_letters_of_another_script_inside_words_are_counted(tmp_path: Path) -> None:
    assert count_mixed_words(["pусский текст", "русский text", "plain", "ΔT 5 μm"]) == 3
    store = prepared("The саt and a c\u0430t sit. The old river flows by here.", tmp_path)
    counts = store.manifest.report["splits"]
    assert sum(split["mixed_words"] for split in counts.values()) == 20 * 2
    (tmp_path / "plain").mkdir()
    plain = prepared(ENGLISH, tmp_path / "plain")
    assert "mixed_words" not in plain.manifest.report["splits"]["train"]


def test_a_run_that_says_english_goes_on_as_it_began(tmp_path: Path) -> None:
    """What was the default is written down in the settings of older runs and stores."""
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join([NAMED] * 30), encoding="utf-8")
    output = tmp_path / "run"
    settings = {**TINY_RUN, "tokenizer": "wordpiece", "vocab_size": 300}
    bertsmith.pretrain(file, output=output, language="en", steps=1, quiet=True, **settings)
    again = bertsmith.pretrain(file, output=output, resume=True, steps=2, quiet=True)
    assert resolve(file=again.output / "config.toml").preparation.language == "en"


@pytest.mark.parametrize("is_chinese", [True, False])
def test_near_duplicates_are_found_with_and_without_spaces(
    is_chinese: bool, tmp_path: Path
) -> None:
    """Fifty texts of fifteen clauses, each again with one word changed."""
    draw = random.Random(0)
    words = "河流穿过古老城市孩子在那里玩耍风很大" if is_chinese else WORDS
    joint = "" if is_chinese else " "
    lines = []
    for _ in range(50):
        text = draw.choices(words, k=150)
        for changed in (text, [*text[:70], "鹤" if is_chinese else "heron", *text[71:]]):
            clauses = [joint.join(changed[begin : begin + 10]) for begin in range(0, 150, 10)]
            lines.append(("，" if is_chinese else ", ").join(clauses))
    file = tmp_path / "t.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    settings: dict[str, Any] = {"documents": "line", "tokenizer": "bpe", "vocab_size": 400}
    config = PreparationConfig(
        corpus=(str(file),), deduplicate="near", validation_fraction=0, **settings
    )
    left_out = prepare_store(config, tmp_path / "store").manifest.report["left_out"]
    assert left_out == {"duplicate documents": 50}
