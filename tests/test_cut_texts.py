"""Texts longer than the model takes: what of them is read, and what is said of the rest."""

from __future__ import annotations

import json
import warnings
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForPreTraining, AutoTokenizer

import bertsmith
from bertsmith.cli.main import main
from bertsmith.errors import InputError
from bertsmith.inference.model import PretrainedModel
from bertsmith.tokenizer.texts import cuts, kept_places, say_what_was_cut
from bertsmith.training.run import Run


@pytest.fixture(scope="module")
def model(finished_run: Run) -> PretrainedModel:
    """It takes 24 tokens."""
    return bertsmith.load(finished_run.output, device="cpu")


@given(
    length_a=st.integers(0, 40),
    length_b=st.none() | st.integers(0, 40),
    max_length=st.integers(5, 30),
    data=st.data(),
)
def test_every_wanted_place_is_in_a_cut(
    length_a: int, length_b: int | None, max_length: int, data: st.DataObject
) -> None:
    segments = [0] * (length_a + 2) + ([] if length_b is None else [1] * (length_b + 1))
    ends = {0, length_a + 1, len(segments) - 1}
    inner = [place for place in range(len(segments)) if place not in ends]
    wanted = sorted(data.draw(st.sets(st.sampled_from(inner)))) if inner else []
    found = cuts(segments, wanted, max_length)
    for kept in found:
        assert len(kept) == min(max_length, len(segments))
        assert ends <= set(kept)
        assert kept == sorted(set(kept))
        for text in (range(1, length_a + 1), range(length_a + 2, len(segments) - 1)):
            stay = [place for place in kept if place in text]
            assert all(b == a + 1 for a, b in pairwise(stay)), "one stretch of each text"
    assert set(wanted) <= set().union(*found)
    assert cuts(segments, (), max_length) == [kept_places(segments, max_length)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((), [range(1, 11)]),
        ((1,), [range(1, 11)]),
        ((40,), [range(35, 45)]),  # as much before as behind
        ((40, 43), [range(37, 47)]),
        ((100,), [range(91, 101)]),
        ((40, 49), [range(40, 50)]),
        ((40, 50), [range(35, 45), range(45, 55)]),  # too far apart for one
        ((40, 49, 50), [range(40, 50), range(45, 55)]),
    ],
)
def test_what_stands_around_the_wanted_places_stays(
    wanted: tuple[int, ...], expected: list[range]
) -> None:
    found = cuts([0] * 102, wanted, 12)
    assert found == [[0, *stretch, 101] for stretch in expected]


def filled(model: PretrainedModel, text: str, pair: str | None = None) -> list[list[str]]:
    return [[word.text for word in words] for words in model.fill(text, pair, top_k=2)]


def test_a_mask_beyond_the_length_is_filled_by_what_is_around_it(model: PretrainedModel) -> None:
    before, behind = "crane bird " * 60, " over old river" * 20
    with pytest.warns(UserWarning, match=r"what stands around \[MASK\]"):
        (found,) = model.fill(f"{before}the [MASK] flies{behind}", top_k=3)
    kept = f"{before}the [MASK] flies{behind}".split()[110:132]
    (alone,) = model.fill(" ".join(kept), top_k=3)
    assert [word.token for word in found] == [word.token for word in alone]
    assert [word.probability for word in found] == pytest.approx(
        [word.probability for word in alone], rel=1e-5
    )
    assert found[0].text == f"{before}the {found[0].token} flies{behind}"


def test_every_mask_is_answered_in_its_place(model: PretrainedModel) -> None:
    text = "the [MASK] lifts " + "crane " * 60 + "a [MASK] flies"
    with pytest.warns(UserWarning, match="cut to the 24"):
        first, second = model.fill(text, top_k=2)
    assert first[0].text == text.replace("[MASK]", first[0].token, 1)
    assert second[0].text == text[:-12] + f"{second[0].token} flies"
    alone = model.fill("the [MASK] lifts " + "crane " * 19, top_k=2)[0]
    assert first[0].probability == pytest.approx(alone[0].probability, rel=1e-5)


def test_masks_of_a_pair_stay_in_their_texts(model: PretrainedModel) -> None:
    a, b = "crane " * 60 + "the [MASK] waits", "a [MASK] flies"
    with pytest.warns(UserWarning, match="cut"):
        of_a, of_b = model.fill(a, b, top_k=2)
    assert of_a[0].text == "crane " * 60 + f"the {of_a[0].token} waits"
    assert of_b[0].text == f"a {of_b[0].token} flies"
    a, b = "[MASK] " + "crane " * 40 + "[MASK]", "bird " * 40 + "[MASK]"
    with pytest.warns(UserWarning, match="cut"):
        found = model.fill(a, b, top_k=1)
    assert [words[0].text.count("[MASK]") for words in found] == [1, 1, 0]
    assert found[2][0].text == "bird " * 40 + found[2][0].token


def test_a_short_text_is_filled_as_before(model: PretrainedModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (words,) = filled(model, "the [MASK] lifts a beam")
    assert len(words) == 2


def test_a_long_text_without_a_mask_is_not_shown_whole(model: PretrainedModel) -> None:
    with pytest.raises(InputError, match="must hold") as caught:
        model.fill("crane " * 20_000)
    assert len(str(caught.value)) < 200


def test_the_command_says_which_mask_is_which(
    finished_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fill", str(finished_run.output), "the [MASK] lifts a [MASK]", "--top-k", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[2], lines[3]] == ["mask 1 of 2", "", "mask 2 of 2"]
    assert lines[1].endswith("lifts a [MASK]")


def test_the_command_shows_of_a_long_text_what_is_around_the_mask(
    finished_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "crane " * 30 + "the [MASK] waits" + " bird" * 30
    with pytest.raises(SystemExit), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main(["fill", str(finished_run.output), text, "--top-k", "3"])
    for line in capsys.readouterr().out.splitlines():
        assert len(line) < 140
        shown = line.split("%  ")[1]
        assert (shown[0], shown[-1]) == ("…", "…")
        assert " the " in shown
        assert " waits bird" in shown


def test_the_trained_length_is_in_the_folder_and_said(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = "--hidden-size 16 --intermediate-size 32 --num-hidden-layers 1 --max-length 24"
    command = ["pretrain", "--corpus", str(text_file), "--output", str(tmp_path / "r"), "--quiet"]
    with pytest.raises(SystemExit) as stop:
        main([*command, *flags.split(), "--steps", "1", "--batch-size", "8", "--device", "cpu"])
    assert stop.value.code == 0
    folder = tmp_path / "r" / "model"
    assert f"{folder} (reads 24 tokens of a text; --max-length)" in capsys.readouterr().out
    config = json.loads((folder / "config.json").read_text())
    assert (config["trained_max_length"], config["max_position_embeddings"]) == (24, 512)
    tokenizer = AutoTokenizer.from_pretrained(folder)  # what the pipelines cut by
    assert len(tokenizer("crane " * 100, truncation=True)["input_ids"]) == 24
    assert AutoModelForPreTraining.from_pretrained(folder).config.max_position_embeddings == 512


def test_fine_tuning_beyond_the_trained_length_says_so(folder: Path, tmp_path: Path) -> None:
    train = tmp_path / "t.tsv"
    train.write_text("text\tlabel\nthe bird\t1\nthe crane\t0\n")
    with pytest.warns(UserWarning, match="trained on 32 tokens: what its positions up to 40"):
        bertsmith.finetune(
            folder,
            train=train,
            validation=train,
            output=tmp_path / "o",
            max_length=40,
            epochs=1,
            baseline=False,
            device="cpu",
            quiet=True,
        )


def test_the_warning_names_the_line_that_called(model: PretrainedModel) -> None:
    calls = (
        lambda: model.encode("crane " * 30),
        lambda: model.encode_one("crane " * 30),
        lambda: model.encode([("crane " * 30, "bird")]),
        lambda: model.fill("crane " * 30 + "[MASK]"),
        lambda: model.next_sentence("crane " * 30, "a bird"),
    )
    for call in calls:
        with pytest.warns(UserWarning, match="of its") as caught:
            call()
        assert len(caught) == 1
        assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("lengths", "settings", "message"),
    [
        (
            [202],
            {},
            "The text was cut to the 64 tokens that the model was trained on: of its 202 tokens "
            "138 were not read. Give shorter parts, or train with a larger --max-length.",
        ),
        (
            [10, 70, 100],
            {"source": "t.tsv"},
            "t.tsv: 2 of 3 texts were cut to 64 tokens: of their 170 tokens 42 were not read. "
            "Give shorter parts, or train with a larger --max-length.",
        ),
    ],
)
def test_what_was_cut_is_said_in_one_line(
    lengths: list[int], settings: dict[str, str], message: str
) -> None:
    with pytest.warns(UserWarning) as caught:
        say_what_was_cut(lengths, 64, **settings)
    assert [str(one.message) for one in caught] == [message]


def test_many_texts_get_one_line(model: PretrainedModel) -> None:
    with pytest.warns(UserWarning, match="2 of 3 texts were cut") as caught:
        found = model.encode(["crane " * 30, "crane", "crane " * 50])
    assert len(caught) == 1
    assert [one.num_cut_tokens for one in found] == [8, 0, 28]


@pytest.mark.filterwarnings("default")
def test_a_file_of_texts_gets_one_line(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "t.txt"
    texts.write_text("the crane\n" + "the " * 60 + "\n" + "qux quux\n")
    command = ["encode", str(finished_run.output), "--input", str(texts)]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--output", str(tmp_path / "v.npz"), "--pooling", "cls", "--json"])
    assert stop.value.code == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["cut_texts"] == 1
    (cut,) = [line for line in told.err.splitlines() if "were cut" in line]
    assert "1 of 3 texts were cut to 24 tokens: of their 62 tokens 38 were not read" in cut
    (unknown,) = [line for line in told.err.splitlines() if "no word that the model knows" in line]
    assert "1 of 3 texts" in unknown
