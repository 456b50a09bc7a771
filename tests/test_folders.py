"""What of a folder is its text, and what is left out of it, said, or refused."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bertsmith.config import PreparationConfig
from bertsmith.corpus import Columns, Document, open_corpus
from bertsmith.corpus.folders import ABOUT_THE_TEXT
from bertsmith.errors import ConfigError, CorpusError
from bertsmith.preparation import prepare_store

TEXT = "The crane lifts a beam. The bird flies north.\n\n"
DOCUMENT: Document = [["The crane lifts a beam.", "The bird flies north."]]
ROW = json.dumps({"text": TEXT.strip()}) + "\n"


def read(path: Path | str, left_out: Counter[str] | None = None, **columns: Any) -> list[Document]:
    corpus = open_corpus([str(path)], validation_fraction=0, columns=Columns(**columns))
    return list(corpus.read("train", left_out))


@pytest.mark.parametrize(
    "name", ["LICENSE", "LICENSE.txt", "licence-MIT.md", "README.md", "readme.de.txt", "COPYING"]
)
@pytest.mark.parametrize("data", ["train.jsonl", "text.txt"])
@pytest.mark.parametrize("pattern", ["", "/*"])
def test_files_about_the_text_never_replace_it(
    data: str, name: str, pattern: str, tmp_path: Path
) -> None:
    (tmp_path / data).write_text(ROW if data.endswith("l") else TEXT)
    (tmp_path / name).write_text("Permission is hereby granted. More of it.\n\n" * 500)
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning, match=f"1 files about the text .* as .*{name}"):  # it is large
        assert read(f"{tmp_path}{pattern}", left_out) == [DOCUMENT]
    assert left_out[ABOUT_THE_TEXT] == 1


def test_a_small_licence_beside_the_text_is_not_worth_a_word(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT * 9)
    (tmp_path / "LICENSE").write_text("Permission is granted.\n")
    assert read(tmp_path) == [DOCUMENT] * 9


def test_tables_are_text_whatever_they_are_called(tmp_path: Path) -> None:
    for name in ("readme-00000.jsonl", "manifest.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(ROW)
    assert read(tmp_path) == read(f"{tmp_path}/*") == [DOCUMENT] * 3


def test_a_licence_that_comes_changes_no_key(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT * 9)

    def content() -> list[str]:
        return [digest() for digest in open_corpus([str(tmp_path)]).content]

    before = content()
    (tmp_path / "LICENSE").write_text("Permission.\n")
    assert content() == before


def test_folders_that_a_pattern_matches_are_read_beside_files(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(TEXT)
    (tmp_path / "a" / "train").mkdir(parents=True)
    (tmp_path / "a" / "train" / "00.txt").write_text(TEXT * 2)
    assert read(f"{tmp_path}/**/train*") == [DOCUMENT] * 3
    assert read(f"{tmp_path}/**") == [DOCUMENT] * 3


def test_a_folder_of_nothing_else_is_read(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(TEXT)
    assert read(tmp_path) == [DOCUMENT]


def test_a_readme_beside_a_folder_does_not_stand_for_it(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("Read me. Do.")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text(TEXT)
    with pytest.warns(UserWarning, match="1 matches of the pattern without text, as .*README"):
        assert read(f"{tmp_path}/*") == [DOCUMENT]


def test_most_of_the_bytes_decide_between_texts_and_tables(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Some notes. More.")
    (tmp_path / "train.jsonl").write_text(ROW * 3)
    with pytest.warns(
        UserWarning, match=r"1 of 2 files .* 1 texts beside tables \(\.txt\), as .*n"
    ):
        assert read(tmp_path) == [DOCUMENT] * 3
    (tmp_path / "notes.txt").write_text(TEXT * 9)
    with pytest.warns(UserWarning, match=r"1 of 2 files .* 1 tables beside texts \(\.jsonl\), as"):
        assert read(tmp_path) == [DOCUMENT] * 9


@pytest.mark.parametrize("about", ["readme.txt", "notes.txt"])
def test_a_small_part_of_a_folder_is_refused(about: str, tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.xml").write_text(f"<a>{TEXT}</a>")
    (tmp_path / about).write_text(TEXT)
    with pytest.raises(CorpusError, match=r"40 files that are not text \(\.xml\)") as caught:
        read(tmp_path)
    if about == "notes.txt":
        assert "of its 41 files only 1 (1 .txt) could be read" in str(caught.value)
        assert read(f"{tmp_path}/*.txt") == [DOCUMENT]  # as the message says


def test_what_is_left_out_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.xml").write_text("<a/>")
    with pytest.warns(UserWarning, match=r"1 of 2 files are read .* as .*b\.xml\.$"):
        open_corpus([str(tmp_path)])


def make_folder(folder: Path, num_files: int = 30, num_lines: int = 20) -> Path:
    folder.mkdir()
    for number in range(num_files):
        (folder / f"{number:02}.txt").write_text(TEXT * num_lines)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.txt", b"", "empty files"),
        ("tables.csv", b"a,b\n1,2\n", "tables without a column 'text'"),
        ("spaces.txt", b" \n" * 10, "empty files"),
        ("empty.parquet", b"", "empty files"),
        ("empty.txt.gz", b"", "empty files"),
        ("empty.txt.xz", b"", "empty files"),
        ("nothing.txt.gz", gzip.compress(b"", mtime=0), "empty files"),
        ("image.txt", bytes(range(256)) * 9, "binary files (.txt)"),
        ("sixteen.txt", TEXT.encode("utf-16-le"), "binary files (.txt)"),
        ("image", bytes(range(256)) * 9, "binary files (no ending)"),
        ("plain.txt.gz", b"plain", "files that cannot be read"),
        ("no.parquet", b"PAR1 no", "files that cannot be read"),
    ],
)
def test_a_member_that_is_no_text_is_left_out_and_named(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "d", num_lines=300)
    (folder / name).write_bytes(content)
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning, match=rf"30 of 31 files are read .* as .*{name}"):
        assert len(read(folder, left_out)) == 9000
    assert left_out == {reason: 1}
    if reason.startswith(("binary files (.", "files")):
        with pytest.raises(CorpusError, match=rf"0\.0% of its bytes .* 1 files .*{name}"):
            read(folder, max_bad_rows=0.0)
    with pytest.raises(CorpusError, match=name):  # alone it is all of the corpus
        read(folder / name)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"Caf\xe9 bad. More.\n", "lines: not UTF-8"),
        (b"A NUL \0 byte. More.\n", "lines: a NUL byte"),
        (b"w" * 2**10 + b"\n", "lines: over 16 MiB"),
    ],
)
def test_a_bad_line_ends_its_document_and_is_counted(
    line: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.corpus.lines.LONGEST_LINE", 1000)
    folder = make_folder(tmp_path / "d")
    (folder / "07.txt").write_bytes(
        b"Before. It.\n" + line + b"After. It.\n\n" + TEXT.encode() * 30
    )
    left_out: Counter[str] = Counter()
    told = rf"07\.txt, line 2 \(byte \d+\): {reason[7:]}; left out"
    with pytest.warns(UserWarning, match=told):
        found = read(folder, left_out)
    assert found[140:142] == [[["Before.", "It."]], [["After.", "It."]]]
    assert len(found) == 29 * 20 + 32
    assert left_out == {reason: 1}
    with pytest.warns(UserWarning), pytest.raises(CorpusError, match=r"of its lines; 1 of 613 are"):
        read(folder, max_bad_rows=0.001)


def test_a_folder_in_another_encoding_is_refused(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_bytes("河流穿过古老城市。鸟儿飞。\n".encode("gbk") * 9)
    settings = PreparationConfig(corpus=(str(tmp_path),))
    with pytest.raises(CorpusError, match=r"of its lines; 27 of 27 are not \(not UTF-8\)"):
        prepare_store(settings, tmp_path / "store")


def test_one_bad_row_of_many_small_tables_ends_nothing(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number:02}.jsonl").write_bytes(ROW.encode() * 2)
    (tmp_path / "30.jsonl").write_bytes(ROW.encode() + b'{"text": "caf\xe9"}\n')
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning, match=r"30\.jsonl, row 2: not UTF-8; left out"):
        assert len(read(tmp_path, left_out)) == 119
    assert left_out == {"rows of tables": 120, "rows: not UTF-8": 1}


def test_a_damaged_member_gives_what_stands_before(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", 3)
    draw = random.Random(0)
    rows = (f"{draw.random()} is. {draw.random()} is not.\n\n" for _ in range(9000))
    packed = gzip.compress("".join(rows).encode(), mtime=0)
    (folder / "99.txt.gz").write_bytes(packed[: len(packed) // 2])
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning, match=r"99\.txt\.gz is damaged.*the rest.*; left out"):
        found = read(folder, left_out, max_bad_rows=0.3)
    assert 3000 < len(found) < 6000
    assert left_out == {"files: cannot be read to the end": 1}
    with pytest.warns(UserWarning), pytest.raises(CorpusError, match=r"its files; 1 of 4 are not"):
        read(folder)


def test_one_empty_file_of_several_that_are_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", 2)
    (folder / "01.txt").write_text("")
    names = [str(folder / f"{number:02}.txt") for number in range(2)]
    with pytest.warns(UserWarning, match=r"left out: 1 empty files, as .*01\.txt"):
        assert len(list(open_corpus(names, validation_fraction=0).read("train"))) == 20


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    make_folder(tmp_path / "real", 3, 1)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, target in (
        ("wiki", "../real"),
        ("again", "../real"),
        ("up", ".."),
        ("loop", "loop"),
        ("self", "."),
        ("gone.txt", "nowhere"),
        ("00.txt", "../real/00.txt"),
    ):
        (corpus / name).symlink_to(target)
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning, match="links"):
        assert read(corpus, left_out) == [DOCUMENT] * 3
    assert left_out == {
        "linked folders that are read already": 2,
        "links that lead nowhere": 2,
        "links to files that are read already": 1,
    }


def test_what_lies_in_the_folder_is_read_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("B.")
    (tmp_path / "a.txt").symlink_to("b.txt")
    (tmp_path / "c.txt").write_text("C.")
    with pytest.warns(UserWarning, match="1 links to files that are read already"):
        assert read(tmp_path) == [[["B."]], [["C."]]]


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", 2)
    name = os.fsdecode(b"caf\xe9.txt")
    (folder / name).write_bytes(TEXT.encode() * 30 + b"\xff\n")
    settings = PreparationConfig(corpus=(str(folder),), tokenizer="bpe", max_bad_rows=0.1)
    with pytest.warns(UserWarning, match=r"caf\\udce9\.txt, line 61"):
        store = prepare_store(settings, tmp_path / "store", processes=1)
    assert store.manifest.report["left_out"] == {"lines: not UTF-8": 1}
    settings = PreparationConfig(corpus=(str(folder / name),))
    with pytest.raises(CorpusError, match=r"caf\\udce9\.txt must be UTF-8"):
        prepare_store(settings, tmp_path / "other")


def test_a_column_of_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    settings = PreparationConfig(corpus=(str(tmp_path / "a.txt"),), text_column="body")
    with pytest.raises(ConfigError, match="changes nothing where no table is read"):
        prepare_store(settings, tmp_path / "store")


def test_line_ends_of_old_macs(tmp_path: Path) -> None:
    text = "One is. Two is.\nThree.\n\nFour.\n"
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_bytes(text.encode().replace(b"\n", b"\r"))
    assert read(tmp_path / "b.txt") == read(tmp_path / "a.txt")
    lines = (ROW * 3).replace("\n", "\r")
    (tmp_path / "d.jsonl").write_bytes(lines.encode())
    assert read(tmp_path / "d.jsonl") == [DOCUMENT] * 3
    rows = 'text,id\n"One is. Two is.",1\nThree.,2\n'
    (tmp_path / "c.csv").write_bytes(rows.encode().replace(b"\n", b"\r"))
    assert read(tmp_path / "c.csv") == [[["One is.", "Two is."]], [["Three."]]]


def test_a_pattern_reads_each_file_once_whatever_links_lead_to_it(tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "a.txt").write_text(TEXT)
    (tmp_path / "d" / "0.txt").symlink_to("a.txt")
    (tmp_path / "d" / "sub" / "loop").symlink_to("..")
    for pattern in ("*.txt", "**/*", "**/*.txt"):
        with pytest.warns(UserWarning, match="links to files that are read already"):
            assert read(f"{tmp_path}/d/{pattern}") == [DOCUMENT]


def test_files_that_are_not_in_the_encoding_named_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Mühlen mahlen. Größe zählt.\n" * 9, encoding="cp1252")
    (tmp_path / "b.txt").write_text("Mühlen mahlen. Größe zählt.\n" * 9, encoding="utf-8")
    with pytest.warns(
        UserWarning, match=r"1 of 2 files are valid UTF-8, as .*b\.txt, and are read"
    ):
        open_corpus([str(tmp_path)], encoding="cp1252")
