"""Texts in tables, whatever they are called and however they are nested or encoded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from bertsmith.corpus import Columns, Document, good_lines, json_rows, lines, open_corpus
from bertsmith.corpus.tables import NOT_UNICODE, delimiter_of
from bertsmith.errors import CorpusError
from tests.support.texts import pack

ROWS = ["One is here. Two is there.\nThree.", 'Four {"a": 1} five.', "Größe. 河。"]
OBJECTS = [{"id": number, "text": row} for number, row in enumerate(ROWS)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in OBJECTS)
DOCUMENTS: list[Document] = [
    [["One is here.", "Two is there."], ["Three."]],
    [['Four {"a": 1} five.']],
    [["Größe.", "河。"]],
]


def read(path: Path, left_out: Counter[str] | None = None, **columns: Any) -> list[Document]:
    corpus = open_corpus([str(path)], validation_fraction=0, columns=Columns(**columns))
    return list(corpus.read("train", left_out))


@pytest.mark.parametrize("in_folder", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("wiki_00", LINES),
        ("a.txt", LINES),
        ("a.json", LINES),
        ("a.json.gz", LINES),
        ("RC_2019-04.zst", LINES),
        ("bom.txt", "\ufeff" + LINES),
        ("array.json", json.dumps(OBJECTS)),
        ("pretty.json", json.dumps(OBJECTS, indent=2)),
        ("array.json.gz", json.dumps(OBJECTS)),
        ("one-after-the-other.json", "\n".join(json.dumps(row, indent=2) for row in OBJECTS)),
        ("array", json.dumps(OBJECTS)),
    ],
)
def test_json_is_read_as_json_whatever_it_is_called(
    name: str, content: str, in_folder: bool, tmp_path: Path
) -> None:
    file = tmp_path / name
    packed = file.suffix if file.suffix in (".gz", ".zst") else ""
    file.write_bytes(pack(content.encode(), packed))
    assert read(tmp_path if in_folder else file) == DOCUMENTS


def test_json_lines_with_damage_are_not_prose(tmp_path: Path) -> None:
    file = tmp_path / "wiki_00"
    file.write_text('{"text": "cut\n' + LINES * 40)
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning, match="row 1: not JSON; left out"):
        assert read(file, left_out) == DOCUMENTS * 40
    assert left_out["rows: not JSON"] == 1


def test_a_first_line_that_is_longer_than_the_look(tmp_path: Path) -> None:
    file = tmp_path / "wiki_00"
    file.write_text(json.dumps({"text": "Word. " * 20_000}) + "\n" + LINES)
    assert read(file)[1:] == DOCUMENTS


@pytest.mark.parametrize(
    "prose", ["{ and } are braces.\nMore.\n", '["quoted"] is a word.\n', "{\n}\n", "[1] A note.\n"]
)
def test_prose_that_begins_with_a_bracket_is_prose(prose: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(prose)
    kept = "".join(s for document in read(file) for paragraph in document for s in paragraph)
    assert "".join(kept.split()) == "".join(prose.split())


def test_a_long_array_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsmith.corpus.json_rows._BLOCK_BYTES", 7)
    file = tmp_path / "a.json"
    file.write_text(json.dumps(OBJECTS * 20, ensure_ascii=False, indent=1), encoding="utf-8")
    assert read(file) == DOCUMENTS * 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            json.dumps({"version": 1, "data": OBJECTS}, indent=1),
            r"holds an object with 'version', 'data'.*jq -c '\.data\[\]'",
        ),
        (json.dumps({"data": OBJECTS * 2000}), r"holds an object with 'data'"),
        (json.dumps([{"body": "A."}]), "must have a column 'text'; it has 'body'"),
        ('[{"text": "A."}, {"text": "B." "C."}]', r"where ' ?\{\"text\": \"B.* it does not"),
        ("[]", "empty"),
        ("Prose.", "must hold JSON lines, or one array of objects; it holds neither"),
    ],
)
def test_json_that_is_no_table_is_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(CorpusError, match=message) as caught:
        read(file)
    assert str(file) in str(caught.value)


def test_an_object_over_the_bound_ends_an_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.corpus.json_rows.LONGEST_LINE", 5000)
    monkeypatch.setattr("bertsmith.corpus.json_rows._BLOCK_BYTES", 100)
    file = tmp_path / "a.json"
    file.write_text(json.dumps([*OBJECTS, {"text": "w" * 100_000}]))
    with pytest.raises(CorpusError, match="each of at most 5000 bytes"):
        read(file)


def test_a_json_line_over_the_bound_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    long = json.dumps({"text": "word " * (17 * 2**20 // 5)}) + "\n"
    file.write_text(LINES * 20 + long + LINES * 20)
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning, match="row 61: over 16 MiB; left out"):
        assert read(file, left_out, max_bad_rows=0.02) == DOCUMENTS * 40
    assert left_out["rows: over 16 MiB"] == 1


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".parquet"])
def test_fields_of_fields_and_lists_of_strings(kind: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"meta": {"id": "x", "body": {"lines": ["One. Two.", "Three."]}}},
        {"meta": {"id": "y", "body": {"lines": []}}},
        {"meta": {"id": "z", "body": {"lines": ["Four."]}}},
        {"meta": None},
        {"meta": {"id": "u", "body": {"lines": ["Five.", None]}}},
    ]
    file = tmp_path / f"a{kind}"
    if kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        file.write_text("\n".join(map(json.dumps, rows)) if kind[-1] == "l" else json.dumps(rows))
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning, match="left out"):
        found = read(file, left_out, text="meta.body.lines", max_bad_rows=0.5)
    assert found == [[["One.", "Two."], ["Three."]], [["Four."]]]
    assert left_out["rows of white space"] == 1
    assert left_out["rows of tables"] == 5
    file.write_bytes(file.read_bytes().replace(b'"meta": null', b'"meta": {}'))
    with pytest.raises(CorpusError, match=r"column 'meta\.none'"):
        read(file, text="meta.none")


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_csv_with_other_delimiters(delimiter: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    lines = [delimiter.join(("id", '"text"')), *(f'{n}{delimiter}"A, b; c|d."' for n in range(3))]
    file.write_text("\n".join(lines))
    assert read(file) == [[["A, b; c|d."]]] * 3


def test_what_parts_the_header_has_the_columns_that_are_asked_for() -> None:
    assert delimiter_of("id;a,text", ["a,text"]) == ";"
    assert delimiter_of("id;a,text", ["text"]) == ","
    assert delimiter_of("text", ["text"]) == ","


@pytest.mark.parametrize("row", ['"Never closed.', '"Closed." said he.', 'Five" tall.', '""'])
def test_quotes_in_tsv_are_text(row: str, tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text(f"text\tlabel\n{row}\t1\n" + "More.\t0\n" * 100)
    assert read(file) == [[[row]], *[[["More."]]] * 100]


def test_two_columns_of_the_name_that_is_asked_for(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["A."])] * 2, names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text,text\nA.,B.\n")
    for name in ("a.parquet", "a.csv"):
        with pytest.raises(CorpusError, match="one column 'text'; it has several"):
            read(tmp_path / name)


def test_rows_of_parquet_that_are_no_text(tmp_path: Path) -> None:
    raw = pyarrow.array([b"Good. Text.", b"caf\xe9", None, b"End."], pyarrow.binary())
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 4, raw.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning, match="left out"):
        found = read(tmp_path / "a.parquet", left_out, max_bad_rows=0.6)
    assert found == [[["Good.", "Text."]], [["End."]]]
    assert left_out == {"rows of tables": 4, "rows: not UTF-8": 1, "rows: its text is null": 1}


def long_values(name: str) -> tuple[Any, dict[str, Any], int, int]:
    """Values that take much memory, how they are written, how many are read, and in how much."""
    plain: dict[str, Any] = {"use_dictionary": False}
    if name == "one of 60 MB in a dictionary":
        return ["a" * 60_000_000], {}, 0, 500
    if name == "one of 200 MB among others":
        return [*["A."] * 300, "a" * 200_000_000, *["B."] * 300], plain, 600, 1200
    if name == "300 that repeat the one before":
        delta = plain | {"column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
        return ["a" * 1_900_000] * 300, delta, 300, 400
    numbers = pyarrow.array([0] * 1500 + [1], pyarrow.int32())
    repeated = pyarrow.DictionaryArray.from_arrays(numbers, pyarrow.array(["a" * 1_900_000, "A."]))
    if name == "1,501 of a dictionary's two":
        return repeated, {}, 1501, 700
    return pyarrow.ListArray.from_arrays([0, 1500, 1501], repeated), {}, 1, 700


READ_IT = """
import resource, sys, warnings
import bertsmith.corpus.files as files
from bertsmith.corpus import Columns, open_corpus
import pyarrow.parquet
warnings.simplefilter("ignore")
files.documents_of_rows = lambda rows, rules, left_out: ([[text[:9]]] for text in rows)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[2]) * 2**20,) * 2)
text = open_corpus([sys.argv[1]], validation_fraction=0, columns=Columns(max_bad_rows=1.0))
print(sum(1 for _ in text.read("train")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="bounds a process's memory")
@pytest.mark.parametrize(
    "name",
    [
        "one of 60 MB in a dictionary",
        pytest.param("one of 200 MB among others", marks=pytest.mark.slow),
        pytest.param("300 that repeat the one before", marks=pytest.mark.slow),
        pytest.param("1,501 of a dictionary's two", marks=pytest.mark.slow),
        "a row of 1,500 strings",
    ],
)
def test_small_parquet_files_take_bounded_memory(name: str, tmp_path: Path) -> None:
    values, options, num_documents, megabytes = long_values(name)
    file = tmp_path / "a.parquet"
    table = pyarrow.table({"text": values})
    pyarrow.parquet.write_table(table, file, compression="zstd", **options)
    assert file.stat().st_size < 50_000
    del values, table
    done = subprocess.run(
        [sys.executable, "-c", READ_IT, str(file), str(megabytes)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"},  # it reserves nothing ahead
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == num_documents


def test_too_long_rows_of_parquet_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    texts = ["A. B."] * 200 + ["w" * (2**24 + 1)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), file)
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning, match="row 201: over 16 MiB; left out"):
        assert len(read(file, left_out)) == 200
    assert left_out["rows: over 16 MiB"] == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_halves_of_surrogate_pairs_in_a_list_leave_a_row_out(name: str, tmp_path: Path) -> None:
    rows = [{"text": ["A crane.", "B."]}] * 300 + [{"text": ["a \ud800", "b"]}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / name).write_text(lines if name.endswith("l") else json.dumps(rows))
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning, match="row 301: not Unicode"):
        assert len(read(tmp_path / name, left_out)) == 300
    assert left_out[f"rows: {NOT_UNICODE}"] == 1


def test_what_is_in_a_list_of_parquet_cannot_be_named(tmp_path: Path) -> None:
    table = pyarrow.table({"tokens": [["a", "b"]], "s": [{"x": "Text."}]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for column in ("tokens.list.element", "tokens.element", "text"):
        with pytest.raises(CorpusError, match=r"it has 'tokens', 's', 's\.x'\. "):
            read(tmp_path / "a.parquet", text=column)
    assert read(tmp_path / "a.parquet", text="s.x") == [[["Text."]]]


def test_the_delimiter_is_the_one_whose_header_has_the_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,source (a;b;c)\nOne here.,x\n")
    assert read(tmp_path / "a.csv") == [[["One here."]]]


def test_a_carriage_return_in_a_tsv_is_part_of_its_field(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"text\tid\r\nOne\rhere.\t1\r\nTwo.\t2\r\n")
    assert read(tmp_path / "a.tsv") == [[["One"], ["here."]], [["Two."]]]


def test_no_part_of_a_line_over_the_bound_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (lines, good_lines, json_rows):
        monkeypatch.setattr(module, "LONGEST_LINE", 1000, raising=False)
    monkeypatch.setattr(lines, "PART_BYTES", 2000)
    path = tmp_path / "a.txt"
    path.write_text("A crane.\n\n" * 190 + "long " * 1000 + "\n\n" + "A bird.\n\n" * 190)
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning, match="over 16 MiB"):
        found = read(path, left_out, max_bad_rows=0.5)
    assert found == [[["A crane."]]] * 190 + [[["A bird."]]] * 190
    assert left_out["lines: over 16 MiB"] == 1
