"""Places of a word, ranked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import bertsmith
from bertsmith.architectures.bert.network import Bert
from bertsmith.cli.main import main
from bertsmith.errors import InputError
from bertsmith.inference.model import PretrainedModel, cosine_similarity
from bertsmith.inference.similar import pattern_of, similar_places
from bertsmith.saved.hugging_face import Snapshot
from bertsmith.tokenizer import Spelling, train

LINES = [
    "the crane lifts a beam over old river",
    "a bird flies north",
    "Crane flies north with grey wings before winter comes",
    "",
    "the crane lifts a beam over old river\n",
    "the craneous bird, a crane",
]


@pytest.fixture
def model(folder: Path) -> PretrainedModel:
    return bertsmith.load(folder, device="cpu")


def test_places_are_found_and_ranked(model: PretrainedModel) -> None:
    reference, others = similar_places(model, "crane", LINES)
    assert (reference.line, reference.word, reference.left) == (1, "crane", "the ")
    assert sorted(place.line for place, _ in others) == [3, 5, 6]
    nearest, cosine = others[0]
    assert (nearest.line, round(cosine, 5)) == (5, 1.0)  # the same line again
    assert [c for _, c in others] == sorted((c for _, c in others), reverse=True)


def test_a_vector_is_that_of_the_encoding(model: PretrainedModel) -> None:
    reference, others = similar_places(model, "crane", LINES, to="a crane flies")
    expected = model.encode_one("a crane flies").tokens[2]
    np.testing.assert_allclose(reference.vector, expected, atol=1e-6)
    assert len(others) == 4
    for place, cosine in others:
        assert cosine == pytest.approx(cosine_similarity(expected, place.vector), abs=1e-6)


def test_another_place_can_be_the_one(model: PretrainedModel) -> None:
    reference, others = similar_places(model, "crane", LINES, place=2)
    assert reference.line == 3
    assert 1 in [place.line for place, _ in others]


def test_a_long_line_is_read_around_the_word(model: PretrainedModel) -> None:
    filler = "the old river " * 30
    (place, _), *_ = similar_places(
        model, "crane", [f"{filler} crane {filler}"], to="a crane"
    ).others
    words = ["the", "old", "river"] * 30
    around = [*words[-15:], "crane", *words[:14]]
    row = model.encode_one(" ".join(around))
    assert len(row.tokens) == 32
    np.testing.assert_allclose(place.vector, row.tokens[16], atol=1e-5)
    assert len(place.left) <= 40


def test_pieces_of_a_word_are_taken_together(tiny_model: Bert, tmp_path: Path) -> None:
    texts = [[["cranes lift", "crane lifts", "bird lifted birds"]]] * 9
    tokenizer = train(
        texts, kind="wordpiece", spelling=Spelling(lowercase=False), vocab_size=40, max_length=32
    )
    bert = Bert(tiny_model.config, tokenizer.vocab_size)
    bert.initialize(0)
    folder = tmp_path / "pieces"
    folder.mkdir()
    Snapshot.of(bert, tokenizer).write(folder)
    model = bertsmith.load(folder, device="cpu")
    found = similar_places(model, "cranebird", ["Cranebird", "x cranebird"], to="cranebird lifts")
    row = model.encode_one("cranebird lifts")
    count = len(model.tokenizer.encode("cranebird").ids) - 2
    assert count > 1
    np.testing.assert_allclose(found.reference.vector, row.tokens[1 : 1 + count].mean(0), atol=1e-6)
    assert [place.line for place, _ in found.others] == [2]  # upper case counts here


def test_a_word_longer_than_the_model_takes_is_read_as_far_as_it_goes(
    model: PretrainedModel,
) -> None:
    phrase = "crane " + "old river " * 30 + "bird"
    found = similar_places(model, phrase, [phrase], to=f"the {phrase}")
    assert len(found.others) == 1
    row = model.encode_one("crane " + "old river " * 14 + "old")
    np.testing.assert_allclose(found.others[0][0].vector, row.tokens[1:31].mean(0), atol=1e-5)


@pytest.mark.parametrize(
    ("word", "options", "message"),
    [
        ("zeppelin", {}, "must hold the word 'zeppelin' at least 2 times"),
        ("craneous", {}, "vocabulary; 'craneous' is not"),
        ("crane", {"place": 9}, "at least 9 times"),
        ("crane", {"place": 0}, "`place` must be at least 1"),
        ("crane", {"to": "a bird"}, "--to must hold the word"),
        (" ", {}, "must not be empty"),
    ],
)
def test_what_does_not_suit_is_said(
    word: str, options: dict[str, str], message: str, model: PretrainedModel
) -> None:
    with pytest.raises(InputError, match=message):
        similar_places(model, word, LINES, **options)  # type: ignore[arg-type]


def test_scripts_without_spaces(model: PretrainedModel) -> None:
    assert len(pattern_of("鶴", ignores_case=True).findall("鶴が飛ぶ鶴")) == 2
    assert pattern_of("crane", ignores_case=True).findall("cranes Crane crane's") == [
        "Crane",
        "crane",
    ]


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("राम", "राम रामायण श्रीराम राम, (राम)", 3),
        ("خواهم", "خواهم می\u200cخواهم", 1),
        ("cafe", "cafe cafe\u0301 cafe", 2),
        ("мир", "мир мирный Мир", 2),
        ("แม่", "แม่น้ำ แม่", 2),
    ],
)
def test_marks_and_joiners_are_inside_words(word: str, text: str, found: int) -> None:
    assert len(pattern_of(word, ignores_case=True).findall(text)) == found


def test_a_line_without_end_is_read_in_pieces(model: PretrainedModel) -> None:
    line = "the old river " * 12_000
    found = similar_places(model, "crane", [f"{line}crane {line}crane"], to="a crane")
    assert [place.line for place, _ in found.others] == [1, 1]


def test_from_python(folder: Path, model: PretrainedModel, tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("\n".join(line.strip() for line in LINES))
    expected = similar_places(model, "crane", LINES, place=2)
    for given in (text, str(text), LINES):
        found = bertsmith.similar(folder, "crane", given, place=2, device="cpu", quiet=True)
        assert isinstance(found, bertsmith.Ranked)
        lines = [place.line for place, _ in found.others]
        assert lines == [place.line for place, _ in expected.others]
        assert found.reference.line == 3


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "t.txt"
    text.write_text("\n".join(LINES))
    for flags in ([], ["--json", "--top-k", "2"]):
        with pytest.raises(SystemExit) as stop:
            main(["similar", str(folder), str(text), "--word", "crane", *flags])
        assert stop.value.code == 0
        out = capsys.readouterr().out
        if flags:
            found = json.loads(out)
            assert (found["places"], len(found["nearest"])) == (3, 2)
            assert found["nearest"][0]["line"] == 5
        else:
            assert "3 other places" in out
            assert "[crane]" in out
