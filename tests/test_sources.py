"""Where text comes from and how it is parted: rules, parts of files, addresses, datasets."""

from __future__ import annotations

import functools
import http.server
import json
import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertsmith.corpus import (
    Columns,
    Document,
    Rules,
    Splitter,
    absolute_names,
    open_corpus,
)
from bertsmith.corpus.assemble import CUT_DOCUMENTS
from bertsmith.corpus.hub import Address
from bertsmith.errors import CorpusError
from tests.support.texts import make_documents, write_text

TEXT = "Ants dig. Cats nap.\nElks run.\n\nGulls fly.\nOwls see. Pigs eat.\n\n\nRats hide.\n"


def read(name: str | Path, rules: Rules | None = None, **options: Any) -> list[Document]:
    return list(
        open_corpus([str(name)], validation_fraction=0, rules=rules, **options).read("train")
    )


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (
            Rules(),
            [
                [["Ants dig.", "Cats nap."], ["Elks run."]],
                [["Gulls fly."], ["Owls see.", "Pigs eat."]],
                [["Rats hide."]],
            ],
        ),
        (
            Rules(documents="line"),
            [
                [["Ants dig.", "Cats nap."]],
                [["Elks run."]],
                [["Gulls fly."]],
                [["Owls see.", "Pigs eat."]],
                [["Rats hide."]],
            ],
        ),
        (
            Rules(documents="file"),
            [
                [
                    ["Ants dig.", "Cats nap."],
                    ["Elks run."],
                    ["Gulls fly."],
                    ["Owls see.", "Pigs eat."],
                    ["Rats hide."],
                ]
            ],
        ),
        (
            Rules(documents="file", paragraphs="empty-line"),
            [
                [
                    ["Ants dig.", "Cats nap.", "Elks run."],
                    ["Gulls fly.", "Owls see.", "Pigs eat."],
                    ["Rats hide."],
                ]
            ],
        ),
        (
            Rules(split=Splitter("line")),
            [
                [["Ants dig. Cats nap.", "Elks run."]],
                [["Gulls fly.", "Owls see. Pigs eat."]],
                [["Rats hide."]],
            ],
        ),
        (
            Rules(split=Splitter("none")),
            [
                [["Ants dig. Cats nap."], ["Elks run."]],
                [["Gulls fly."], ["Owls see. Pigs eat."]],
                [["Rats hide."]],
            ],
        ),
    ],
)
def test_rules_for_documents_paragraphs_and_sentences(
    rules: Rules, expected: list[Document], tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text(TEXT)
    assert read(file, rules) == expected
    table = tmp_path / "a.jsonl"
    table.write_text("\n".join(json.dumps({"text": line}) for line in TEXT.splitlines()))
    if rules.documents != "auto":  # rows are then lines
        assert read(table, rules) == expected


def test_full_stops_belong_to_no_sentence_in_between(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("One fact . And another . The end .\n")
    found = read(file, Rules(split=Splitter("full-stop")))
    assert found == [[["One fact", "And another", "The end ."]]]


def test_a_document_that_is_too_long_is_cut_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.corpus.assemble.LONGEST_DOCUMENT", 20)
    file = tmp_path / "a.txt"
    file.write_text("One two three. Four.\nFive.\nSix.\nSeven eight nine ten.\n\nTen.\n")
    left_out: Counter[str] = Counter()
    found = list(open_corpus([str(file)], validation_fraction=0).read("train", left_out))
    assert [len(document) for document in found] == [2, 2, 1]
    assert left_out == {CUT_DOCUMENTS: 1}


LINES = st.lists(
    st.sampled_from(["", "A b c.", "Größe. Öl.", "x" * 40, "\u3042\u3044\u3002"]), max_size=60
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, size=st.integers(8, 200))
@pytest.mark.parametrize("documents", ["auto", "line"])
def test_parts_of_a_file_are_the_file(
    documents: Any, lines: list[str], size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n".join([*lines, "The end."]), encoding="utf-8")
    rules = Rules(documents=documents)
    whole = read(file, rules)
    with monkeypatch.context() as patch:
        patch.setattr("bertsmith.corpus.lines.PART_BYTES", size)
        patch.setattr("bertsmith.corpus.files.PART_BYTES", size)
        corpus = open_corpus([str(file)], validation_fraction=0, rules=rules)
        left_out: Counter[str] = Counter()
        parts = [list(part.reader(left_out)) for part in corpus.parts]
    found = [document for part in parts for document in part]
    paragraphs = [paragraph for document in found for paragraph in document]
    assert paragraphs == [paragraph for document in whole for paragraph in document]
    # A document is cut only where no empty line is near, and that is counted.
    assert len(found) == len(whole) + left_out[CUT_DOCUMENTS]
    assert documents == "auto" or found == whole


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_parts_of_tables_are_the_table(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [f"Row {n} is here.\nIts öther line." for n in range(300)]
    file = tmp_path / f"a{kind}"
    if kind == ".jsonl":
        file.write_text("\n".join(json.dumps({"text": row}) for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"text": rows}), file, row_group_size=40)
    whole = read(file)
    for name in ("lines", "files", "rows"):
        monkeypatch.setattr(f"bertsmith.corpus.{name}.PART_BYTES", 900)
    corpus = open_corpus([str(file)], validation_fraction=0)
    assert len(corpus.parts) > 4
    assert list(corpus.read("train")) == whole
    assert len(whole) == 300


def test_small_files_are_read_together(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.txt").write_text(f"File {number}.")
    corpus = open_corpus([str(tmp_path)], validation_fraction=0)
    assert len(corpus.parts) == 1
    assert len(list(corpus.read("train"))) == 30


def test_parts_can_be_sent_to_another_process(tmp_path: Path) -> None:
    file = write_text(tmp_path / "a.txt", make_documents(30))
    corpus = open_corpus([str(file)])
    for part in pickle.loads(pickle.dumps(list(corpus.parts)))[:1]:
        assert list(part.read(Counter())) == list(corpus.parts[0].read(Counter()))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a server on this machine that gives the files of `tmp_path`."""
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_addresses_are_read_as_files_are(web: str, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    file = write_text(tmp_path / "a.txt", make_documents(20))
    assert read(f"{web}/a.txt") == read(file)
    with pytest.raises(CorpusError, match="There is no file at"):
        read(f"{web}/b.txt")


def test_folders_and_patterns_at_an_address() -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    try:
        for name in ("b", "a"):
            system.pipe(f"/texts/{name}.txt", f"{name} one. two.".encode())
        system.pipe("/texts/README.md", b"no")
        assert read("memory://texts") == [[["a one.", "two."]], [["b one.", "two."]]]
        assert read("memory://texts/*.txt") == read("memory://texts")
        before = [digest() for digest in open_corpus(["memory://texts"]).content]
        system.pipe("/texts/a.txt", b"Another text.")
        assert [digest() for digest in open_corpus(["memory://texts"]).content] != before
    finally:
        system.rm("/texts", recursive=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("s3://bucket/a.txt", r"cannot be read: [^.]*\. Addresses need.*'bertsmith\[s3\]'"),
        ("nothing://a", r"cannot be read: [^.]*nothing\.$"),
    ],
)
def test_addresses_that_nothing_can_read(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(CorpusError, match=message):
        open_corpus([name])


datasets_library = pytest.importorskip("datasets")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`owner/name`, which the library reads from the current folder, as it would from the hub."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf" / "datasets"))
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    for split, count in (("train", 50), ("validation", 7), ("test", 3)):
        rows = [{"body": f"{split} {n}. More.", "key": n} for n in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_dataset_by_name(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = open_corpus(["hf:owner/name,column=body"])
    assert corpus.splits == ("train", "validation", "test")
    assert [len(list(corpus.read(split))) for split in corpus.splits] == [50, 7, 3]
    assert next(iter(corpus.read("train"))) == [["train 0.", "More."]]
    assert pickle.loads(pickle.dumps(corpus.parts[0])).split == "train"
    named = open_corpus(["hf:owner/name,split=test"], columns=Columns("body"))
    assert len([*named.read("train"), *named.read("validation")]) == 3
    monkeypatch.setattr("bertsmith.corpus.hub.PART_BYTES", 300)
    parted = open_corpus(["hf:owner/name,column=body"])
    assert len(parted.parts) > 5
    assert list(parted.read("train")) == list(corpus.read("train"))
    assert [digest() for digest in parted.content] == [digest() for digest in corpus.content]


def test_a_saved_dataset(dataset: Path, tmp_path: Path) -> None:
    loaded = datasets_library.load_dataset("owner/name")
    loaded.save_to_disk(str(tmp_path / "all"))
    loaded["test"].save_to_disk(str(tmp_path / "one"))
    found = open_corpus([str(tmp_path / "all")], columns=Columns("body"))
    assert found.splits == ("train", "validation", "test")
    assert len(read(tmp_path / "one", columns=Columns("body"))) == 3


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:10%]", range(5)),
        ("train[45:]", range(45, 50)),
        ("train[-3:]", range(47, 50)),
        ("train[:2]+train[4:6]", [0, 1, 4, 5]),
    ],
)
@pytest.mark.parametrize("saved", [False, True])
def test_slices_of_splits(
    split: str, expected: Any, saved: bool, dataset: Path, tmp_path: Path
) -> None:
    name = "owner/name"
    if saved:
        name = str(tmp_path / "all")
        datasets_library.load_dataset("owner/name").save_to_disk(name)
    name = f"hf:{name},split={split},column=body"
    assert absolute_names([name]) == (name,)
    corpus = open_corpus([name], validation_fraction=0)
    found = [document[0][0] for document in corpus.read("train")]
    assert found == [f"train {n}." for n in expected]
    other = open_corpus([name.replace("]", "]+test[:1]", 1)], validation_fraction=0)
    again = open_corpus([name], validation_fraction=0)
    keys = [[digest() for digest in one.content] for one in (corpus, again, other)]
    assert keys[0] == keys[1] != keys[2]


def test_fields_of_a_dataset(tmp_path: Path) -> None:
    rows = [{"body": {"lines": [f"One {n}.", "Two."]}, "id": n} for n in range(3)]
    datasets_library.Dataset.from_list(rows).save_to_disk(str(tmp_path / "d"))
    found = read(tmp_path / "d", columns=Columns("body.lines"))
    assert found[1] == [["One 1."], ["Two."]]
    with pytest.raises(CorpusError, match=r"no column 'body\.text'"), pytest.warns(UserWarning):
        read(tmp_path / "d", columns=Columns("body.text"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:owner/name,split=train[:x]", r"must have the split 'train\[:x\]'; it has train,"),
        ("hf:owner/name,split=dev[:1%]", r"must have the split 'dev\[:1%\]'; it has train,"),
        ("hf:owner/name", "must have a column 'text'; it has 'body', 'key'"),
        ("hf:owner/name,column=body,split=dev", "must have the split 'dev'; it has train,"),
        ("hf:owner/other", "Cannot load the dataset owner/other"),
        ("hf:owner/name,colunm=body", "must be hf:owner/name"),
        ("hf:", "must be hf:owner/name"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_datasets_that_cannot_be_read(
    name: str, message: str, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CorpusError, match=message) as caught:
        open_corpus([name])
    assert "\n" not in str(caught.value)


def test_an_address_of_a_dataset_has_all_its_parts() -> None:
    found = Address.parse("hf:a/b,config=c,split=d,revision=e,column=f")
    assert found == Address("a/b", "c", "d", "e", "f")
