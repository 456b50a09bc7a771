"""Tags of words: schemes, windows, training, and what transformers makes of the folder."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

import bertsmith
from bertsmith.cli.main import main
from bertsmith.config import LabelledConfig
from bertsmith.errors import (
    BertsmithError,
    ConfigError,
    CorpusError,
    DataError,
    InputError,
    ModelError,
)
from bertsmith.finetuning.tagged import (
    NO_TAG,
    Scheme,
    Span,
    read_tagged,
    span_figures,
    spans_of,
    windows_of,
)
from bertsmith.inference.tags import Tagger
from bertsmith.tokenizer import Spelling, Tokenizer, train
from bertsmith.training.run import Run
from tests.support.labelled import write
from tests.support.runs import TINY_RUN
from tests.support.texts import WORDS

FAST: dict[str, Any] = {
    "task": "tokens",
    "epochs": 8,
    "batch_size": 8,
    "learning_rate": 0.01,
    "dropout_prob": 0.0,
    "patience": 0,
    "device": "cpu",
    "precision": "float32",
    "quiet": True,
}
ENCODER: dict[str, Any] = {"device": "cpu"}
TAGS = ["O", "B-a", "I-a", "B-b", "I-b"]


def sentences(number: int, seed: int = 0) -> list[tuple[list[str], list[str]]]:
    """Birds are animals, and grey wings are things."""
    draw = random.Random(seed)
    marks = {"bird": "B-animal", "grey": "B-thing", "wings": "I-thing"}
    others = [word for word in WORDS if word != "wings"]
    rows = []
    for _ in range(number):
        drawn = draw.choices(others, k=draw.randint(3, 12))
        words = [
            part for word in drawn for part in (["grey", "wings"] if word == "grey" else [word])
        ]
        rows.append((words, [marks.get(word, "O") for word in words]))
    return rows


def conll(path: Path, rows: Sequence[tuple[list[str], list[str]]]) -> Path:
    blocks = ("".join(f"{w}\t{t}\n" for w, t in zip(*row, strict=True)) for row in rows)
    path.write_text("\n".join(blocks))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tags")
    return {
        "train": conll(folder / "train.tsv", sentences(150)),
        "validation": conll(folder / "dev.tsv", sentences(40, seed=1)),
    }


@pytest.fixture(scope="module")
def tuned(
    finished_run: Run, files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    output = tmp_path_factory.mktemp("tuned") / "tags"
    return bertsmith.finetune(finished_run.output, **files, output=output, **FAST)


@pytest.mark.parametrize(
    ("expected", "found", "spans", "f1"),
    [
        (
            "I-a I-a I-b O B-b B-a O / O I-a B-b B-a",
            "B-b O I-b O B-b B-a O / I-b I-a B-b B-a",
            7,
            0.8,
        ),
        (
            "B-a B-a I-a I-a / I-b B-a B-a B-a",
            "B-a B-a I-a I-a / I-b I-a B-a I-b",
            6,
            0.833333333333,
        ),
        ("O I-a I-a I-a B-b / B-a B-b B-b B-a O", "O I-a O I-a B-b / B-a O B-a B-a O", 6, 0.5),
        (
            "I-b I-a I-b I-a B-b / I-b I-a I-a",
            "I-b I-a I-a I-a B-b / I-a I-a I-a",
            7,
            0.363636363636,
        ),
        (
            "I-a B-a O B-a I-a / B-a O O I-b I-b B-b",
            "I-a B-a O B-a O / B-a O B-a I-b I-b B-b",
            6,
            0.769230769231,
        ),
    ],
)
def test_figures_are_those_that_seqeval_gave(
    expected: str, found: str, spans: int, f1: float
) -> None:
    """By its release 1.2.2, which cannot be installed everywhere."""
    rows = [[row.split() for row in text.split(" / ")] for text in (found, expected)]
    figures = span_figures(*rows)[""]
    assert figures["spans"] == spans
    assert figures["f1"] == pytest.approx(f1, abs=1e-11)


@given(st.lists(st.lists(st.sampled_from(TAGS), max_size=8), min_size=1, max_size=4), st.integers())
def test_figures_are_those_of_seqeval(expected: list[list[str]], seed: int) -> None:
    pytest.importorskip("seqeval", reason="seqeval is not installed (it has no wheel)")
    from seqeval.metrics import classification_report, f1_score
    from seqeval.metrics.sequence_labeling import get_entities

    draw = random.Random(seed)
    found = [[draw.choice([tag, draw.choice(TAGS)]) for tag in row] for row in expected]
    for row in expected:
        theirs = {Span(first, last + 1, kind) for kind, first, last in get_entities(row)}
        assert spans_of(row) == theirs
    figures = span_figures(found, expected)
    assert figures[""]["f1"] == pytest.approx(f1_score(expected, found, zero_division=0))
    if any(map(spans_of, expected)):
        report = classification_report(expected, found, output_dict=True, zero_division=0)
        for kind in {"a", "b"} & set(report):
            assert figures[kind]["f1"] == pytest.approx(report[kind]["f1-score"])
            assert figures[kind]["precision"] == pytest.approx(report[kind]["precision"])


@pytest.mark.parametrize(
    ("given", "bio", "broken"),
    [
        ("B-a I-a O I-b", "B-a I-a O B-b", 1),
        ("I-a I-a B-a I-b", "B-a I-a B-a B-b", 2),
        ("S-a B-a I-a E-a O", "B-a B-a I-a I-a O", 0),
        ("B-a E-a E-a U-b L-b", "B-a I-a B-a B-b B-b", 2),
    ],
)
def test_schemes_are_brought_to_bio(given: str, bio: str, broken: int, tmp_path: Path) -> None:
    scheme = Scheme.of_tags(set(given.split()) | {"B-b", "O"}, tmp_path)
    assert scheme.as_bio(given.split()) == (bio.split(), broken)
    assert scheme.names == ["O", "B-a", "I-a", "B-b", "I-b"]
    assert [scheme.continued(number) for number in range(5)] == [0, 2, 2, 4, 4]


def test_tags_without_marks_are_classes(tmp_path: Path) -> None:
    scheme = Scheme.of_tags({"NOUN", "VERB", "X-Y"}, tmp_path)
    assert not scheme.is_spans
    assert scheme.names == ["NOUN", "VERB", "X-Y"]
    assert scheme.as_bio(["VERB", "NOUN"]) == (["VERB", "NOUN"], 0)
    assert scheme.continued(1) == 1


def tokenizer_of(kind: Any, length: int) -> Tokenizer:
    texts = [[[" ".join(WORDS)] * 3]]
    return train(
        texts, kind=kind, spelling=Spelling(), min_frequency=1, vocab_size=290, max_length=length
    )


TOKENIZERS = {kind: tokenizer_of(kind, 16) for kind in ("word", "wordpiece", "bpe", "unigram")}


@given(
    st.sampled_from(sorted(TOKENIZERS)),
    st.lists(
        st.sampled_from([*WORDS, "zzyzx", "a-b", "\u200b", "w" * 60]), min_size=1, max_size=40
    ),
)
def test_each_word_is_learnt_and_decided_once(kind: str, words: list[str]) -> None:
    from bertsmith.finetuning.tagged import pieces_of

    tokenizer, scheme = TOKENIZERS[kind], Scheme.of_tags(set(TAGS), Path("f"))
    pieces = pieces_of(words, tokenizer)
    assert len(pieces) == len(words)
    tags = [n % 5 for n in range(len(words))]
    windows = windows_of(pieces, tags, 7, tokenizer, scheme)
    decided = [word for window in windows for word in window.words if word >= 0]
    assert sorted(decided) == list(range(len(words)))
    for window in windows:
        assert window.sentence == 7
        assert len(window.row.ids) == len(window.tags) == len(window.words) <= 16
        assert window.row.ids[0] == tokenizer.cls_id
        assert window.row.ids[-1] == tokenizer.sep_id
        for place, word in enumerate(window.words):
            if word >= 0:
                room = 14 if len(windows) > 1 or len(pieces[word]) > 14 else len(pieces[word])
                cut = pieces[word][:room]
                assert window.row.ids[place : place + len(cut)] == cut
                more = scheme.continued(tags[word])
                assert window.tags[place : place + len(cut)] == [tags[word]] + [more] * (
                    len(cut) - 1
                )
    learnt = sum(tag != NO_TAG for window in windows for tag in window.tags)
    assert learnt == sum(min(len(ids), 14) for ids in pieces)
    assert windows_of(pieces, None, 0, tokenizer, scheme)[0].tags[1] == NO_TAG


def assert_like_theirs(folder: Path, text: str) -> None:
    theirs = AutoModelForTokenClassification.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    tagger = Tagger.load(folder, **ENCODER)
    with torch.no_grad():
        logits = theirs(**inputs).logits[0]
    row = tagger.tokenizer.encode(text)
    assert row.ids == inputs["input_ids"][0].tolist()
    from bertsmith.objectives.tokens import TokenClassification
    from bertsmith.rows import Row, over_tokens

    (mine,) = over_tokens(
        lambda batch: TokenClassification().outputs(tagger.model, batch),
        [Row(row.ids, row.segments)],
        len(tagger.scheme.names),
        torch.device("cpu"),
        precision="float32",
    )
    np.testing.assert_allclose(mine, logits.numpy(), atol=1e-5, rtol=0)


def test_tags_are_learnt(tuned: Any) -> None:
    results = tuned.results
    assert (results["task"], results["metric"]) == ("tokens", "f1")
    assert results["classes"] == ["O", "B-animal", "I-animal", "B-thing", "I-thing"]
    figures = results["pretrained"]
    assert figures["f1"]["mean"] > 0.9
    assert {"precision", "recall", "accuracy", "f1_animal", "f1_thing"} <= set(figures)
    assert results["random"]["f1"]["mean"] >= 0
    text = "the bird lifts grey wings over old hills"
    assert_like_theirs(tuned.output, text)
    (spans,) = bertsmith.tag(tuned.output, text, **ENCODER)
    assert [(span.kind, span.text) for span in spans] == [
        ("animal", "bird"),
        ("thing", "grey wings"),
    ]
    assert all(text[span.start : span.end] == span.text for span in spans)
    tagger = pipeline(
        "token-classification",
        model=str(tuned.output),
        aggregation_strategy="simple",
        device="cpu",
    )
    assert [(one["entity_group"], one["word"]) for one in tagger(text)] == [
        ("animal", "bird"),
        ("thing", "grey wings"),
    ]
    lines = (tuned.output / "predictions-validation.tsv").read_text().splitlines()
    assert lines[0].count("\t") == 2


def test_a_long_text_is_tagged_to_its_end(tuned: Any) -> None:
    text = " ".join(["the old river"] * 30 + ["bird", "flies"] + ["over quiet hills"] * 20)
    (spans,) = bertsmith.tag(tuned.output, text, **ENCODER)
    assert [text[span.start : span.end] for span in spans] == ["bird"]
    assert bertsmith.tag(tuned.output, ["", "bird"], **ENCODER)[1][0].kind == "animal"


@pytest.mark.slow
def test_a_modernbert_learns_them_too(
    text_file: Path, files: dict[str, Any], tmp_path: Path
) -> None:
    run = bertsmith.pretrain(
        text_file,
        output=tmp_path / "run",
        quiet=True,
        **{
            **TINY_RUN,
            "architecture": "modernbert",
            "tokenizer": "bpe",
            "vocab_size": 290,
            "steps": 3,
        },
    )
    found = bertsmith.finetune(
        run.output,
        **files,
        test=files["validation"],
        output=tmp_path / "out",
        **FAST,
        baseline=False,
    )
    assert found.results["pretrained"]["f1"]["mean"] > 0.5
    assert_like_theirs(found.output, "a bird with grey wings")
    names = {path.name for path in found.output.iterdir()}
    assert {"predictions-validation.tsv", "predictions-test.tsv"} <= names


def test_numbers_get_names_and_a_test_set_needs_no_tags(folder: Path, tmp_path: Path) -> None:
    names = ("O", "B-animal")
    rows = [(w, [str(int(x == "bird")) for x in w]) for w, _ in sentences(30)]
    train = conll(tmp_path / "numbers.tsv", rows)
    test = tmp_path / "words.txt"
    test.write_text("the\nbird\n\nhills\tWHAT\n")
    found = bertsmith.finetune(
        folder,
        train=train,
        validation=train,
        test=test,
        output=tmp_path / "out",
        label_names=names,
        **{**FAST, "epochs": 1},
        baseline=False,
    )
    assert found.results["classes"] == ["O", "B-animal", "I-animal"]
    blocks = (found.output / "predictions-test.tsv").read_text().split("\n\n")
    assert [[line.split("\t")[0] for line in b.splitlines()] for b in blocks[:2]] == [
        ["the", "bird"],
        ["hills"],
    ]
    assert all(line.count("\t") == 1 for b in blocks for line in b.splitlines())


def test_json_lines_and_classes_of_words(
    finished_run: Run, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    rows = [(w, ["LONG" if len(x) > 4 else "SHORT" for x in w]) for w, _ in sentences(60)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"tokens": w, "tags": t}) + "\n" for w, t in rows))
    found = bertsmith.finetune(
        finished_run.output,
        train=file,
        validation=file,
        output=tmp_path / "out",
        **FAST,
        baseline=False,
    )
    assert found.results["metric"] == "accuracy"
    assert found.results["pretrained"]["accuracy"]["mean"] > 0.9
    (spans,) = bertsmith.tag(found.output, "old children", **ENCODER)
    assert [(span.kind, span.text) for span in spans] == [("SHORT", "old"), ("LONG", "children")]


def test_tags_that_break_their_scheme_are_repaired_and_counted(
    folder: Path, files: dict[str, Any], tmp_path: Path
) -> None:
    broken = [(["a", "bird"], ["O", "I-animal"]), (["grey", "hills"], ["B-thing", "I-thing"])] * 4
    train = conll(tmp_path / "broken.tsv", broken)
    with pytest.warns(UserWarning, match="4 of 16 tags are inside a span that was not begun"):
        found = bertsmith.finetune(
            folder, train=train, validation=train, output=tmp_path / "out", **FAST, baseline=False
        )
    assert found.results["repaired_tags"] == {"train": 4, "validation": 4}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.tsv", "word\tO\nlonely\n", "line 2: a line must be a word and its tag"),
        ("t.tsv", "\n\n", "must have sentences with tags; it has none|empty"),
        ("t.jsonl", '{"tokens": ["a"]}\n', "line 1: a row must be a JSON object with the lists"),
        ("t.jsonl", '{"tokens": ["a"], "tags": []}\n', "got 1 words and 0 tags"),
        ("gone.tsv", None, "there is none"),
    ],
)
def test_files_that_are_none_of_tags_are_refused(
    name: str, content: str | None, says: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=says):
        read_tagged(tmp_path / name, LabelledConfig())


def test_what_does_not_suit_is_refused(
    finished_run: Run, folder: Path, files: dict[str, Any], tmp_path: Path
) -> None:
    other = conll(tmp_path / "other.tsv", [(["a"], ["B-else"])])
    stray = conll(tmp_path / "stray.tsv", [(["a", "b", "c"], ["O", "o", "B-x"])])
    alike = conll(tmp_path / "alike.tsv", [(["a"], ["O"])])
    table = write(tmp_path / "t.tsv", [("a bird", "yes"), ("hills", "no")])
    cases: list[tuple[type[BertsmithError], str, dict[str, Any]]] = [
        (DataError, "tags of the training file; it has 'B-else'", {"validation": other}),
        (DataError, "from two to 1000 different tags; it has 1", {"train": alike}),
        (ConfigError, "`metric` must be f1 or accuracy for these", {"metric": "spearman"}),
        (ConfigError, "`class_weights` changes nothing", {"class_weights": "balanced"}),
        (ConfigError, "`pooling` changes nothing where `task` is tokens", {"pooling": "cls"}),
        (DataError, "marks of spans .* alone, or neither; it has 'o' beside", {"train": stray}),
        (
            DataError,
            "`label_names` needs tags from 0 to 1; got B-animal",
            {"label_names": ("a", "b")},
        ),
        (InputError, "name --train and --validation", {"train": None}),
    ]
    for error, says, more in cases:
        with pytest.raises(error, match=says):
            bertsmith.finetune(folder, output=tmp_path / "out", **{**files, **FAST, **more})
    assert table.exists()
    with pytest.raises(ModelError, match="must be fine-tuned with --task tokens; it is a BertFor"):
        bertsmith.tag(finished_run.output, "a bird", **ENCODER)


def test_the_command_prints_spans(
    tuned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("old hills\nthe bird flies\n")
    outputs = []
    for more in (["the bird flies"], ["--input", str(texts)], ["--input", str(texts), "--json"]):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["tag", str(tuned.output), *more, "--device", "cpu"])
        assert ended.value.code == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0].split()[1:] == ["4-8", "animal", "bird"]
    assert outputs[1].split()[1:] == ["2:4-8", "animal", "bird"]
    found = json.loads(outputs[2])["texts"]
    assert [len(one["spans"]) for one in found] == [0, 1]
    assert found[1]["spans"][0]["text"] == "bird"
