"""Lines and words without end: bounded time and memory, and nothing else changes."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencex

from bertsmith.config import TOKENIZERS, PreparationConfig
from bertsmith.corpus import Document
from bertsmith.corpus.sentences import Splitter
from bertsmith.preparation.prepare import prepare_store
from bertsmith.preparation.report import describe_text
from bertsmith.tokenizer import Tokenizer, train
from bertsmith.tokenizer.bounds import LONGEST_PIECE, LONGEST_RUN, part_long_runs, pieces
from tests.support.texts import make_documents, sentences_of

CHINESE = "河流穿过古老城市。"


def letters(count: int, alphabet: str = "abcdefghijklmnopqrstuvwxyz") -> str:
    draw = random.Random(0)
    return "".join(draw.choices(alphabet, k=count))


def learn(kind: Any, documents: list[Document]) -> Tokenizer:
    return train(documents, kind=kind, min_frequency=2, vocab_size=400)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize(
    "run",
    [
        letters(20_000, "acgt"),
        "a" * 50_000,
        pytest.param(letters(400_000), marks=pytest.mark.slow),
    ],
)
def test_a_run_of_letters_is_learned_in_parts(
    kind: Any, run: str, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whole, unigram's trainer overflows the stack, and the others take minutes."""
    asked: list[str] = []

    def seen(text: str) -> str:
        asked.append(part_long_runs(text))
        return asked[-1]

    monkeypatch.setattr("bertsmith.tokenizer.training.part_long_runs", seen)
    tokenizer = learn(kind, [*documents, [[run]]])
    assert max(len(word) for text in asked for word in text.split()) == LONGEST_RUN
    ids, _ = tokenizer.encode_text([f"the crane {run}"])
    known = tokenizer.encode("the crane").ids[1:-1]
    assert ids[: len(known)].tolist() == known


def test_a_vocabulary_is_learned_of_ordinary_text_as_it_is(documents: list[Document]) -> None:
    ordinary = [CHINESE[:-1] * 100, "x" * LONGEST_RUN, "two  spaces\tand a tab"]
    for text in (*ordinary, *sentences_of(documents)):
        assert part_long_runs(text) == text
        assert list(pieces(text)) == [text]


def test_runs_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    text = "The crane lifts a beam.\n\n" * 30
    file.write_text(f"{text}{letters(5000)} and {letters(1000)}\n\n{text}", encoding="utf-8")
    config = PreparationConfig(corpus=(str(file),), tokenizer="bpe", vocab_size=400)
    report = prepare_store(config, tmp_path / "store").manifest.report
    assert sum(counts.get("long_runs", 0) for counts in report["splits"].values()) == 1
    assert "1 runs of over 1,000 characters" in "\n".join(describe_text(report))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_long_text_has_the_same_ids_in_pieces(kind: Any, documents: list[Document]) -> None:
    draw = random.Random(0)
    long = " ".join(draw.choices(sentences_of(documents), k=4000))
    assert len(list(pieces(long))) > 2
    assert "".join(pieces(long)) == long
    assert max(map(len, pieces(long))) <= LONGEST_PIECE
    tokenizer = learn(kind, documents)
    ids, lengths = tokenizer.encode_text(["the crane", long, "", "a bird"])
    whole = tokenizer._backend.encode(long, add_special_tokens=False).ids
    begin, end = int(lengths[0]), int(lengths[:2].sum())
    assert ids[begin:end].tolist() == whole
    assert lengths[2] == 0
    assert ids[end:].tolist() == tokenizer.encode_text(["a bird"])[0].tolist()


@pytest.mark.slow
def test_a_long_text_fills_no_memory(tmp_path: Path) -> None:
    """Two million words in a sentence; at once they would take over a billion bytes."""
    tokenizer = learn("bpe", make_documents())
    tokenizer.save(tmp_path)
    code = (
        "import resource, sys, pathlib\n"
        "from bertsmith.tokenizer import Tokenizer\n"
        "tokenizer = Tokenizer.load(pathlib.Path(sys.argv[1]), default_max_length=64)\n"
        "ids, lengths = tokenizer.encode_text(['q ' * 2**21])\n"
        "print(len(ids), len(tokenizer.encode('q ' * 2**21).ids) > 2**19)\n"
    )

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=bound,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "True"


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of each text that the library of sentences is given."""
    lengths: list[int] = []
    segment: Callable[[str, str], list[str]] = sentencex.segment

    def seen(language: str, text: str) -> list[str]:
        lengths.append(len(text))
        return segment(language, text)

    monkeypatch.setattr(sentencex, "segment", seen)
    return lengths


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        (CHINESE * 60_000, [CHINESE] * 60_000),
        ("這是「一句。兩句。」話。" * 3000, ["這是「一句。兩句。」", "話。"] * 3000),
        ("The river waits. It flows. " * 20_000, ["The river waits.", "It flows."] * 20_000),
    ],
)
def test_a_paragraph_without_end_is_split_in_windows(
    paragraph: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = counting(monkeypatch)
    assert Splitter("language", "zh")(paragraph) == expected
    assert max(lengths) <= 2**14
    assert sum(lengths) < 2 * len(paragraph)


@pytest.mark.parametrize("paragraph", ["word " * 2**17, "“ " * 66_000, "河流" * 2**17, "x" * 2**19])
def test_a_sentence_without_end_is_one(paragraph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = counting(monkeypatch)
    assert Splitter()(f"{paragraph.strip()}. The end. " + "q " * 2**13) == [
        f"{paragraph.strip()}.",
        "The end.",
        ("q " * 2**13).strip(),
    ]
    assert max(lengths) <= 2**14


def test_a_long_text_has_the_same_sentences_in_windows() -> None:
    draw = random.Random(0)
    known = (
        "The crane lifts a beam.|“Does it? I think so,” he said.|It fell by 3.5 m.|"
        'Dr. Smith (born 1900. A man.) left!|He read ‘One. Two.’ aloud.|"Go. Now." she cried.'
    ).split("|")
    text = " ".join(draw.choices(known, k=8000))
    assert len(text) > 2**17
    whole = [sentence.strip() for sentence in sentencex.segment("en", text)]
    assert Splitter()(text) == whole


def test_ordinary_paragraphs_are_looked_at_as_one(
    documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(0)
    sentences = [f"“{text.capitalize()}!” said Dr. Smith." for text in sentences_of(documents)]
    english = " ".join(draw.choices(sentences, k=1500))
    lengths = counting(monkeypatch)
    for paragraph in (english, CHINESE * 1800, f"{CHINESE * 1800} " * 4):
        assert len(paragraph) < 2**17
        found = Splitter()(paragraph)
        assert lengths[-1] == len(paragraph)
        assert [*filter(None, map(str.strip, sentencex.segment("en", paragraph)))] == found


def test_no_text_gives_no_ids(tokenizer: Tokenizer) -> None:
    ids, lengths = tokenizer.encode_text([])
    assert (ids.dtype.name, len(ids)) == ("uint16", 0)
    assert (lengths.dtype.name, len(lengths)) == ("int64", 0)
