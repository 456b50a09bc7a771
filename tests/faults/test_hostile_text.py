"""Texts that nobody meant for training: a clear line or a good run, in bounded memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bertsmith.corpus import open_corpus
from bertsmith.errors import CorpusError
from tests.faults.fuzz import mutated
from tests.support.faults import Machine, begin_arguments
from tests.support.texts import make_documents, pack, table, write_text

GOOD = (
    b"The crane lifts a beam. The bird flies north. The river waits.\n"
    b"The driver sees a river. A bird waits near. The beam is old.\n\n" * 20
)


def long_line(path: Path) -> None:
    with path.open("wb") as stream:
        for _ in range(200):
            stream.write(b"word " * 209_716)


REFUSED: dict[str, tuple[bytes | Callable[[Path], None], str]] = {
    "invalid UTF-8": (GOOD + b"\xff\xfe more.\n", f"must be UTF-8; byte {len(GOOD)} (0xff) is not"),
    "a cut-off character": (GOOD + "é".encode()[:1], "must be UTF-8"),
    "NUL bytes": (GOOD + b"a\0b\n", f"a NUL byte at byte {len(GOOD) + 1}"),
    "UTF-16, not marked": (
        GOOD.decode().encode("utf-16-le"),
        "it is binary (a NUL byte at byte 1)",
    ),
    "a line of 200 MB": (long_line, "at most 16777216 bytes; the line at byte 0 is longer"),
    "a million empty lines": (b"\n" * 1_000_000, "it is empty"),
    "spaces": (b" \t\r\n" * 100_000, "it is empty"),
    "one word repeated": (b"word " * 100_000, "two sentences"),
}

TRAINED: dict[str, bytes] = {
    "CRLF": GOOD.replace(b"\n", b"\r\n"),
    "a byte-order mark": b"\xef\xbb\xbf" + GOOD,
    "a million empty lines between": GOOD + b"\n" * 1_000_000 + GOOD,
    "right-to-left": "هذا نص قصير. وهذا نص آخر هنا. النهر قديم.\n\n".encode() * 40,
    "combining characters": (
        "Ae\u0301o\u0308 n\u0303a. E\u0301 u\u0302 a. Na o\u0308 e.\n\n".encode() * 40
    ),
    "one word as sentences": b"Word. Word. Word. Word.\n\n" * 40,
    "only punctuation": b"?!?! ... --- ;;;\n" * 1000,
    "control characters": GOOD.replace(b"lifts", b"li\x07f\x1bts"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_texts_that_cannot_be_read_are_refused_with_a_line(
    name: str, machine: Machine, tmp_path: Path
) -> None:
    content, words = REFUSED[name]
    corpus = tmp_path / "t.txt"
    if isinstance(content, bytes):
        corpus.write_bytes(content)
    else:
        content(corpus)
    run = tmp_path / "r"
    ended = machine.run(*begin_arguments(corpus, run), under=run)
    assert ended.status == 1, ended
    (line,) = ended.said
    assert line.startswith("bertsmith: error: ")
    assert words in line
    assert not run.exists()
    assert ended.megabytes < least(machine, tmp_path) + 200


@pytest.mark.parametrize("name", TRAINED)
def test_texts_that_are_odd_are_trained_on(name: str, machine: Machine, tmp_path: Path) -> None:
    corpus = tmp_path / "t.txt"
    corpus.write_bytes(TRAINED[name])
    run = tmp_path / "r"
    ended = machine.run(*begin_arguments(corpus, run, 1), under=run)
    assert ended.status == 0, ended
    assert (run / "model" / "model.safetensors").is_file()
    assert ended.megabytes < least(machine, tmp_path) + 200


def least(machine: Machine, folder: Path) -> float:
    """Memory of a process that does nothing: mostly libraries."""
    return machine.run("corpora", under=folder).megabytes


def test_line_ends_and_marks_change_nothing(tmp_path: Path) -> None:
    texts = []
    for content in (GOOD, TRAINED["CRLF"], TRAINED["a byte-order mark"]):
        path = tmp_path / "t.txt"
        path.write_bytes(content)
        texts.append(list(open_corpus([str(path)]).read("train")))
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.filterwarnings("ignore:.*left out")  # of what reads as rows of a table
@example(content=b"{}")
@given(st.binary(max_size=400))
def test_any_bytes_are_text_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content)
    try:
        documents = list(open_corpus([str(path)], validation_fraction=0.0).read("train"))
    except CorpusError as error:
        assert "\n" not in str(error)
        return
    assert all(sentence.strip() for doc in documents for par in doc for sentence in par)
    # Nothing is lost and nothing is made up: only white space may differ.
    kept = "".join("".join(s.split()) for doc in documents for par in doc for s in par)
    assert kept == "".join(content.decode().removeprefix("\ufeff").split())


@given(st.lists(st.text(alphabet="ab. \t\u05d0\u0301é!\u3002", max_size=12), max_size=6))
def test_any_lines_keep_their_text(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_text("\n".join(["x.", *lines]), encoding="utf-8")
    documents = list(open_corpus([str(path)], validation_fraction=0.0).read("train"))
    kept = "".join("".join(s.split()) for doc in documents for par in doc for s in par)
    assert kept == "".join("".join(["x.", *lines]).split())


def test_the_same_documents_whatever_the_line_ends(tmp_path: Path) -> None:
    path = write_text(tmp_path / "t.txt", make_documents(5))
    plain = list(open_corpus([str(path)]).read("train"))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert list(open_corpus([str(path)]).read("train")) == plain


@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv", ".parquet"])
@pytest.mark.filterwarnings("ignore:.*left out:UserWarning")
def test_damaged_tables_are_refused_or_read_in_part(kind: str, packed: str, tmp_path: Path) -> None:
    if kind == ".parquet" and packed:
        return
    draw = random.Random(kind + packed)
    plain = pack(GOOD if kind == ".txt" else table(kind), packed)
    path = tmp_path / f"t{kind}{packed}"
    for _ in range(100):
        path.write_bytes(mutated(plain, draw))
        try:
            list(open_corpus([str(path)], validation_fraction=0.0).read("train"))
        except CorpusError as error:
            assert str(path) in str(error)
