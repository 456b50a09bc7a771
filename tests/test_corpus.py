from __future__ import annotations

import ast
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from bertsmith.corpus import (
    NUM_ROWS,
    Columns,
    Corpus,
    Document,
    Part,
    absolute_names,
    open_corpus,
)
from bertsmith.corpus.holdout import with_validation
from bertsmith.corpus.python_docs import prose
from bertsmith.corpus.tables import NOT_UNICODE
from bertsmith.errors import CorpusError
from tests.support.texts import ROWS, make_documents, pack, table


def read(path: Path, **options: float) -> list[Document]:
    return list(open_corpus([str(path)], validation_fraction=0, **options).read("train"))  # type: ignore[arg-type]


def test_a_line_is_a_paragraph_and_an_empty_line_ends_a_document(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffOne is here. Two is there.\r\nThree.\r\n\r\n \r\nFour!".encode())
    assert read(file) == [[["One is here.", "Two is there."], ["Three."]], [["Four!"]]]


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    for name in ("a.txt", "b.xml", "c.xml", "d.py"):
        (tmp_path / name).write_text("Text.")
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning, match=r"1 of 4 files are read \(1 \.txt\); left out: 2 .*xml"):
        corpus = open_corpus([str(tmp_path)], validation_fraction=0)
    assert len(list(corpus.read("train", left_out))) == 1
    assert left_out == {
        "files that are not text (.xml)": 2,
        "files that are not text (.py)": 1,
    }


def test_a_folder_is_read_in_order_and_each_file_ends_a_document(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("B.")
    (tmp_path / "a.txt").write_text("A.")
    (tmp_path / "sub" / "c.txt").write_text("C.")
    (tmp_path / ".hidden.txt").write_text("H.")
    (tmp_path / "notes.md").write_text("M.")
    (tmp_path / "d").write_text("D.")
    assert read(tmp_path) == [[["A."]], [["B."]], [["D."]], [["M."]], [["C."]]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\nbad \xff here", r"UTF-8; byte 9 \(0xff\)"),
        ("a.txt", b"text\nwith\0nul", "binary .* byte 9"),
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\n", "empty"),
        ("a.jsonl", b"", "empty"),
        ("a.json", b"{}", "must hold rows, as JSON lines or one array"),
        ("a.json", b"Prose.", "must hold JSON lines, or one array of objects"),
        ("a.xml", b"<a>", r"\.xml is not read"),
        ("a.zip", b"PK", r"damaged, or not \.zip"),
        ("a.tgz", gzip.compress(b"text", mtime=0), r"damaged, or not \.tar\.gz"),
        ("a.7z", b"7z", r"must be unpacked: \.7z"),
        ("a.parquet.gz", b"", "Parquet is read from its end"),
        ("a.txt.gz", b"plain", r"damaged, or not \.gz"),
        ("a.txt.xz", b"plain", r"damaged, or not \.xz"),
        ("a.txt.bz2", b"plain", r"damaged, or not \.bz2"),
        ("a.txt.zst", b"plain", r"damaged, or not \.zst"),
        # Without a time in it: the content names the test, and parallel workers agree on names.
        ("a.txt.gz", gzip.compress(b"words " * 999, mtime=0)[:-9], r"damaged, or not \.gz"),
        ("a.csv", b"title,body\n1,2\n", r"column 'text'; it has 'title', 'body'.*--text-column"),
        ("a.parquet", b"PAR1", "is damaged, or no Parquet"),
    ],
)
def test_unreadable_files_are_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


TSV_DOCUMENTS: list[Document] = [
    [['One is "here".', "Two is there."]],
    [['"Four, quoted!']],
    [['"Five" and five.']],
]
DOCUMENTS: list[Document] = [
    [["One is here.", "Two is there."], ["Three."]],
    [['Four, "quoted"\tand parted!']],
    [["Five."]],
]


@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".tsv", ".parquet", ".txt"])
def test_tables_and_packed_files_give_the_same_documents(
    kind: str, packed: str, tmp_path: Path
) -> None:
    if kind == ".parquet" and packed:
        return
    content = "\n\n".join(ROWS).encode() if kind == ".txt" else table(kind)
    file = tmp_path / f"a{kind.upper()}{packed}"
    file.write_bytes(pack(content, packed))
    documents = TSV_DOCUMENTS if kind == ".tsv" else DOCUMENTS
    assert read(file) == documents
    assert read(tmp_path) == documents


def test_rows_without_text_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    good = [json.dumps({"text": f"Number {n}. Again."}) for n in range(500)]
    bad = ["{", "[1]", '{"body": 1}', '{"text": null}', '{"text": 7}', "[" * 9000, '{"text": " "}']
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join([*good, *bad, "", *good]))
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning) as caught:
        documents = list(open_corpus([str(file)], validation_fraction=0).read("train", left_out))
    assert len(documents) == 1000
    assert left_out.pop(NUM_ROWS) == 1007
    assert left_out == {
        "rows: not JSON": 2,
        "rows: not a JSON object": 1,
        "rows: no column 'text'": 1,
        "rows: its text is null": 1,
        "rows: its text is no text (int)": 1,
        "rows of white space": 1,
    }
    assert str(caught[0].message) == f"{file}, row 501: not JSON; left out."
    assert len(caught) == 5


@pytest.mark.parametrize("num_good", [50, 5000])
def test_too_many_bad_rows_are_refused(num_good: int, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    bad = num_good // 10
    file.write_text("null\n" * bad + '{"text": "A text."}\n' * num_good)
    with pytest.warns(UserWarning), pytest.raises(CorpusError, match=r"all but 1\.0% of its rows"):
        read(file)
    columns = Columns(max_bad_rows=0.2)
    with pytest.warns(UserWarning):
        corpus = open_corpus([str(file)], validation_fraction=0, columns=columns)
        assert len(list(corpus.read("train"))) == num_good


@pytest.mark.parametrize(
    ("name", "content", "left_out"),
    [
        (
            "a.jsonl",
            '{"text": "half a \\ud83d pair"}\n{"text": "whole \\ud83d\\ude00"}\n{"text": "Ab."}',
            {f"rows: {NOT_UNICODE}": 1},
        ),
        (
            "a.csv",
            "text\nHello there, my friend.\nGood day.\nWell met.\n",
            {"rows: more columns than the header has": 1},
        ),
    ],
)
def test_rows_that_would_lose_text_are_counted(
    name: str, content: str, left_out: dict[str, int], tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_text(content)
    found: Counter[str] = Counter()
    corpus = open_corpus([str(file)], validation_fraction=0, columns=Columns(max_bad_rows=0.5))
    with pytest.warns(UserWarning):
        assert len(list(corpus.read("train", found))) == 2
    del found[NUM_ROWS]
    assert found == left_out


def test_a_quote_that_is_never_closed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('text,label\n"Never closed,1\n' + "More.,0\n" * 100)
    with pytest.raises(CorpusError, match=r"line \d+: not a table.*JSON lines"):
        read(file)


def test_another_column_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.csv").write_text(f'body\n"{name} one. two."\n')
    monkeypatch.chdir(tmp_path)
    corpus = open_corpus(["*.csv"], validation_fraction=0, columns=Columns("body"))
    assert list(corpus.read("train")) == [[["a one.", "two."]], [["b one.", "two."]]]
    assert absolute_names(["*.csv"]) == (str(tmp_path / "*.csv"),)
    with pytest.raises(CorpusError, match=r"no file at \*\.tsv"):
        open_corpus(["*.tsv"])


def test_tables_beside_texts_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Text.")
    (tmp_path / "about.csv").write_text("file,year\na.txt,1999\n")
    with pytest.warns(UserWarning, match=r"left out: 1 tables without a column 'text', as .*about"):
        assert read(tmp_path) == [[["Text."]]]


def test_missing_paths_and_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="did you mean wikitext-2"):
        open_corpus(["wikitext2"])
    with pytest.raises(CorpusError, match="holds none"):
        open_corpus([str(tmp_path)])


WIKITEXT = (
    " \n = Cranes = \n \n Cranes <unk> loads . They move . \n = = Birds = = \n"
    " A heading without an end \n One fact . \n \n = Rivers = \n \n Water runs . Fish swim . \n"
)


def make_wikitext(folder: Path) -> Path:
    for split in ("train", "valid", "test"):
        (folder / f"wiki.{split}.tokens").write_text(WIKITEXT)
    return folder


def test_wikitext_follows_the_textbook(tmp_path: Path) -> None:
    corpus = open_corpus([str(make_wikitext(tmp_path))])
    left_out: Counter[str] = Counter()
    assert corpus.splits == ("train", "validation", "test")
    assert corpus.pretokenized
    assert list(corpus.read("train", left_out)) == [
        [["Cranes [UNK] loads", "They move ."], ["One fact ."]],
        [["Water runs", "Fish swim ."]],
    ]
    assert left_out.total() == 4  # two titles, a section, a line without an end


def test_wikitext_that_is_not_utf8_is_named_with_the_place(tmp_path: Path) -> None:
    make_wikitext(tmp_path)
    train = tmp_path / "wiki.train.tokens"
    train.write_bytes(b" \n" * 9000 + b" bad \xff . \n")
    with pytest.raises(CorpusError, match=r"byte 18005 \(0xff\)"):
        list(open_corpus([str(tmp_path)]).read("train"))


def test_wikitext_without_its_training_file(tmp_path: Path) -> None:
    make_wikitext(tmp_path)
    (tmp_path / "wiki.train.tokens").unlink()
    with pytest.raises(CorpusError, match=r"must hold wiki\.train\.tokens"):
        open_corpus([str(tmp_path)])


def test_wikitext_of_the_textbook_has_the_published_figures(wikitext: Path) -> None:
    corpus = open_corpus([str(wikitext)])
    for split, paragraphs, sentences in (("train", 15496, 74631), ("validation", 1673, 7889)):
        found = [paragraph for document in corpus.read(split) for paragraph in document]
        assert (len(found), sum(map(len, found))) == (paragraphs, sentences)


def test_several_corpora_are_one(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    make_wikitext(tmp_path / "w")
    file = tmp_path / "t.txt"
    file.write_text("A b. C d.\nE f. G h.\n")
    corpus = open_corpus([str(tmp_path / "w"), str(file)])
    assert not corpus.pretokenized
    assert len(list(corpus.read("train"))) == 3
    assert len(list(corpus.read("validation"))) == 3


def of_documents(documents: list[Document]) -> Corpus:
    return Corpus(
        name="x",
        pretokenized=True,
        splits=("train",),
        find_parts=lambda: [Part(lambda left_out: iter(documents))],
    )


def test_held_out_documents_do_not_depend_on_order_or_growth() -> None:
    documents = make_documents(200)
    corpus = with_validation(of_documents(documents), 0.1)
    train, validation = (list(corpus.read(split)) for split in ("train", "validation"))
    assert len(train) + len(validation) == 200
    assert 5 <= len(validation) <= 40
    grown = with_validation(of_documents([*make_documents(50, seed=9), *documents[::-1]]), 0.1)
    assert [d for d in grown.read("validation") if d in documents] == validation[::-1]


def test_a_single_document_gives_its_last_paragraphs() -> None:
    document = [[f"sentence {i}"] for i in range(40)]
    corpus = with_validation(of_documents([document]), 0.05)
    assert list(corpus.read("train")) == [document[:38]]
    assert list(corpus.read("validation")) == [document[38:]]


def test_few_documents_lose_no_more_than_the_share() -> None:
    documents = [[[f"a{i}"], [f"b{i}"]] for i in range(15)]
    corpus = with_validation(of_documents(documents), 0.05)
    train, validation = (
        [paragraph for document in corpus.read(split) for paragraph in document]
        for split in ("train", "validation")
    )
    assert len(validation) == 2
    assert train + validation == [paragraph for document in documents for paragraph in document]


def test_a_single_paragraph_stays_in_training() -> None:
    corpus = with_validation(of_documents([[["a", "b"]]]), 0.05)
    assert list(corpus.read("train")) == [[["a", "b"]]]
    assert list(corpus.read("validation")) == []


def test_prose_leaves_code_grammar_and_headings_out() -> None:
    text = """
Sets
****

   set_display ::= "{" comprehension "}"

A set is an *unordered* collection of ``hashable`` objects, see :func:`frozenset`.
It holds no element twice. x = {1, 2}; y

Use it like this::

   This line looks like prose but is code.

* The first item is here.
* The second item is there.

>>> print(1)
"""
    left_out: Counter[str] = Counter()
    assert list(prose(text, left_out)) == [
        [
            "A set is an unordered collection of hashable objects, see frozenset.",
            "It holds no element twice.",
        ],
        ["The first item is here."],
        ["The second item is there."],
    ]
    assert left_out["blocks of code"] == 3
    assert left_out["headings"] == 1


@pytest.mark.slow
def test_python_docs_are_there_and_are_prose() -> None:
    corpus = open_corpus(["python-docs"])
    documents = [*corpus.read("train"), *corpus.read("validation")]
    sentences = [s for document in documents for paragraph in document for s in paragraph]
    assert len(sentences) > 10_000
    assert not any("::=" in s or s.startswith(">>>") for s in sentences)
    assert not any("****" in s or "====" in s for s in sentences)
    assert all(s[-1] in ".!?\"'”)" for s in sentences)
    assert sum(len(p) - 1 for d in corpus.read("train") for p in d) > 2_000
    assert any("iterator" in s for s in sentences)


def test_python_docs_import_nothing_of_the_library() -> None:
    import bertsmith.corpus.python_docs as module

    assert module.__file__ is not None
    names = {
        alias.name
        for node in ast.walk(ast.parse(Path(module.__file__).read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not names & {"importlib", "pydoc", "inspect", "pkgutil"}
