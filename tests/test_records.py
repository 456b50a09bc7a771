from __future__ import annotations

import gzip
import json
import os
import warnings
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from bertsmith.config import LabelledConfig
from bertsmith.errors import BertsmithError, ConfigError
from bertsmith.finetuning.tables import read_labelled

ROWS = [
    {"text": 'Ein „Kran“; er hebt, "so"', "label": 1, "id": [1]},
    {"text": "Brücke", "label": 0, "id": [2]},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def check(path: Path, **settings: str) -> list[int]:
    found = read_labelled(path, LabelledConfig(**settings))  # type: ignore[arg-type]
    assert found.texts == [(row["text"], None) for row in ROWS]
    assert [str(label) for label in found.labels or []] == ["1", "0"]
    return found.lines


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf\n "])
def test_a_json_array(indent: int | None, mark: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(mark + json.dumps(ROWS, indent=indent).encode())
    assert check(path) == [1, 2]
    packed = tmp_path / "t.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert check(packed) == [1, 2]


def test_json_lines_under_json(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text("\n" + LINES)
    assert check(path) == [2, 3]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=1)
    assert check(path) == [1, 2]


@pytest.mark.parametrize("encoding", ["windows-1252", "utf-16", "utf-16-le"])
def test_other_encodings(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    text = "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in ROWS)
    path.write_bytes(text.encode(encoding))
    assert check(path, encoding=encoding) == [2, 3]
    path = tmp_path / "t.json"
    path.write_bytes(json.dumps(ROWS, ensure_ascii=False).encode(encoding))
    assert check(path, encoding=encoding) == [1, 2]


@pytest.mark.parametrize(("delimiter", "flag"), [(";", ";"), ("|", "|"), ("\t", "\\t")])
def test_other_delimiters(delimiter: str, flag: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    text = '"Ein „Kran“; er hebt, ""so"""'
    path.write_text(f"text{delimiter}label\n{text}{delimiter}1\nBrücke{delimiter}0\n")
    assert check(path, delimiter=flag) == [2, 3]
    with pytest.raises(BertsmithError, match="--delimiter") as caught:
        check(path)
    assert "\t" not in str(caught.value)


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n"])
def test_what_cannot_part_columns(delimiter: str) -> None:
    with pytest.raises(ConfigError, match="`delimiter` must be one character"):
        LabelledConfig(delimiter=delimiter)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", b"", "is empty"),
        ("t.json", b"[1]", "must hold rows that are JSON objects"),
        ("t.json", b'[{"text": "a"', r"t\.json must hold JSON lines or one array of objects"),
        ("t.json", b'[{"text": "\xe9", "label": 1}]', "--encoding windows-1252"),
        ("t.json", b"[" * 9999, "must hold rows that are JSON objects"),
        ("t.json", b'{\n"text": "a"\n}', "must have a column of labels"),
        ("t.json", b"[]", "is empty"),
        ("t.json", b"text\tlabel\n", "must hold JSON lines, or one array of objects"),
        ("t.jsonl", b"[1]\n[2]\n", "must hold rows that are JSON objects"),
        ("t.tsv", "text\tlabel\na\t1\n".encode("utf-16-le"), "--encoding utf-16"),
        ("t.tsv", b"text\tlabel\n" + b"a\t1\n" * 99 + b"a\0b\t1\n" * 2, "a NUL byte in the column"),
        ("t.parquet", b"PAR1", "is damaged, or no Parquet"),
        ("t.parquet", b"", "is empty"),
        ("t.parquet.gz", b"", "must be unpacked"),
        ("t.tsv", b"text\tlabel\ncaf\xe9\t1\n", "--encoding windows-1252"),
    ],
)
def test_bad_files_are_said_in_a_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    warnings.simplefilter("ignore", UserWarning)  # of rows that are left out
    with pytest.raises(BertsmithError, match=message) as caught:
        read_labelled(tmp_path / name, LabelledConfig())
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_small_parquet_with_long_values_takes_bounded_memory(tmp_path: Path) -> None:
    value = pyarrow.array(["word " * 2**22]).dictionary_encode()  # 20 MiB
    table = pyarrow.table({"text": value.take(pyarrow.array([0] * 900)), "label": [0, 1] * 450})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", compression="zstd")
    assert (tmp_path / "t.parquet").stat().st_size < 2**20
    with (
        pytest.warns(UserWarning, match="line 1: over 16 MiB; left out"),
        pytest.raises(BertsmithError, match="must have"),
    ):
        read_labelled(tmp_path / "t.parquet", LabelledConfig())


def test_two_columns_of_one_name_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pyarrow.table([["a"], ["b"], [1]], names=["text", "text", "label"])
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(BertsmithError, match="one column 'text'; it has several"):
        read_labelled(path, LabelledConfig())


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.tsv")
    (tmp_path / "t.csv").mkdir()
    for name in ("t.tsv", "t.csv", "none.tsv"):
        with pytest.raises(BertsmithError, match="must be a regular file"):
            read_labelled(tmp_path / name, LabelledConfig())


def test_the_delimiter_of_a_csv_is_found_by_the_columns_that_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('text;label\n"Ein „Kran“; er hebt, ""so""";1\nBrücke;0\n')
    assert check(path, text_column="text", label_column="label") == [2, 3]


def test_a_row_that_is_not_utf8_is_left_out_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(b"text\tlabel\n" + b"A crane.\t1\n" * 199 + b"caf\xe9\t0\n")
    with pytest.warns(UserWarning, match="line 201: not Unicode .* in the column 'text'; left out"):
        found = read_labelled(path, LabelledConfig())
    assert (len(found), found.num_left_out) == (199, 1)
