"""Model folders, runs and archives from strangers: a clear line, and nothing outside its folder."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertsmith.corpus import download
from bertsmith.corpus.wikitext import FILES
from bertsmith.errors import BertsmithError, DownloadError
from bertsmith.model.hugging_face import load_model
from tests.faults.fuzz import mutated

on_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def header(path: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    """Change the header of a safetensors file, and leave the bytes after it."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    entries = json.loads(raw[8 : 8 + length])
    change(entries)
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


NAME = "bert.embeddings.word_embeddings.weight"
HEADERS: dict[str, Callable[[dict[str, dict[str, object]]], object]] = {
    "terabytes": lambda h: h[NAME].update(shape=[2**20, 2**20], data_offsets=[0, 2**42]),
    "offsets beyond the end": lambda h: h[NAME].update(data_offsets=[2**40, 2**40 + 8]),
    "offsets backwards": lambda h: h[NAME].update(data_offsets=[64, 0]),
    "another shape": lambda h: h[NAME].update(shape=[32, 37]),
    "a negative size": lambda h: h[NAME].update(shape=[-37, -32]),
    "no such type": lambda h: h[NAME].update(dtype="PICKLE"),
    "whole numbers": lambda h: h[NAME].update(dtype="I32"),
    "a path for a name": lambda h: h.update({"../../evil": h.pop(NAME)}),
    "no list": lambda h: h[NAME].update(shape="37"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_lie_are_refused(kind: str, folder: Path, tmp_path: Path) -> None:
    header(folder / "model.safetensors", HEADERS[kind])
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(BertsmithError, match=r"model\.safetensors") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.parent.rglob("*")) == before


class _Evil:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_pickles_in_disguise_are_not_executed(
    file: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / file).write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(BertsmithError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    (folder / file).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Evil()))
    if file == "model.safetensors":
        with pytest.raises(BertsmithError, match="pickles among them"):
            load_model(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_json_nested_deep_is_refused(file: str, folder: Path) -> None:
    for text in ("[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000):
        (folder / file).write_text(text)
        with pytest.raises(BertsmithError) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_devices_and_pipes_are_not_read(file: str, folder: Path) -> None:
    for make in (lambda path: path.symlink_to("/dev/zero"), os.mkfifo):
        (folder / file).unlink()
        make(folder / file)
        with pytest.raises(BertsmithError, match=file):
            load_model(folder)


@pytest.mark.parametrize("number", [37, 10**9, 2**31])
def test_ids_beyond_the_vocabulary_are_refused(number: int, folder: Path) -> None:
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    vocabulary = found["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.__getitem__)] = number
    path.write_text(json.dumps(found))
    with pytest.raises(BertsmithError, match=r"must have the ids from 0 to 36"):
        load_model(folder)


def test_a_tokenizer_that_is_too_large_is_refused(folder: Path) -> None:
    with (folder / "tokenizer.json").open("r+b") as stream:
        stream.truncate(2**40)  # a hole: it takes no space
    with pytest.raises(BertsmithError, match=r"at most 268435456 bytes; it has 1099511627776"):
        load_model(folder)


def test_what_a_file_says_does_not_reach_the_terminal(folder: Path) -> None:
    header(folder / "model.safetensors", lambda h: h[NAME].update({"dtype": "\x1b[2J\nok"}))
    with pytest.raises(BertsmithError) as caught:
        load_model(folder)
    assert str(caught.value).isprintable()


def archive(names: list[str], content: bytes = b"x") -> Path:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as members:
        for name in names:
            members.writestr(name, content)
    path = Path("w.zip")
    path.write_bytes(stream.getvalue())
    return path


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to unpack into, in an otherwise empty one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a" / "b"
    path.mkdir(parents=True)
    return path


def test_members_outside_their_folder_are_not_written(inside: Path, tmp_path: Path) -> None:
    good = [f"wikitext-2/{file}" for file in FILES.values()]
    evil = ["../evil", "/tmp/bertsmith-evil", "wikitext-2/../../evil", "..\\evil", "C:\\evil"]
    download._unpack(archive(evil + good), inside)
    assert sorted(path.name for path in inside.iterdir()) == sorted(FILES.values())
    assert {path.name for path in tmp_path.rglob("*")} == {"a", "b", "w.zip", *FILES.values()}
    assert not Path("/tmp/bertsmith-evil").exists()
    with pytest.raises(DownloadError, match="damaged"):
        download._unpack(archive(evil), inside)


def test_bombs_are_refused_before_they_go_off(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_LARGEST_FILE", 10_000)
    names = [f"wikitext-2/{file}" for file in FILES.values()]
    with pytest.raises(DownloadError, match="claims 1000000 bytes unpacked"):
        download._unpack(archive(names, b"0" * 1_000_000), inside)
    # A member that has more in it than it claims: what is over is never unpacked.
    path = archive(names, b"0" * 1_000_000)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(struct.pack("<L", 1_000_000), struct.pack("<L", 9_000)))
    with pytest.raises(DownloadError, match="damaged"):
        download._unpack(path, inside)
    assert sum(file.stat().st_size for file in inside.iterdir()) <= 30_000
    # Parquet: one value, a million times.
    rows = pyarrow.array(["word " * 100]).dictionary_encode().take(pyarrow.array([0] * 1_000_000))
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), "bomb.parquet")
    assert Path("bomb.parquet").stat().st_size < 100_000, "500 MB in so much"
    with pytest.raises(DownloadError, match="over 10000 bytes of rows"):
        download._write_rows(Path("bomb.parquet"), inside / "t")


@given(data=st.data())
@on_a_folder
def test_any_damage_to_an_archive_is_refused_or_harmless(data: st.DataObject, inside: Path) -> None:
    names = [f"wikitext-2/{file}" for file in FILES.values()]
    path = archive(names, b"Cranes lift . \n" * 9)
    path.write_bytes(mutated(path.read_bytes(), data.draw(st.randoms(use_true_random=False))))
    try:
        download._unpack(path, inside)
    except DownloadError as error:
        assert "\n" not in str(error)
    assert {entry.name for entry in inside.iterdir()} <= set(FILES.values())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


def any_value(folder: Path, file: str, entry: dict[str, Any], plain: object) -> None:
    """Load a folder whose JSON `plain` has a strange value in it; a clear line, or it fits."""
    path = folder / file
    before = path.read_bytes()
    try:
        if file == "model.safetensors":
            header(path, lambda entries: entries.update(entry))
        else:
            path.write_text(json.dumps(plain))
        load_model(folder)
    except BertsmithError as error:
        assert len(str(error).splitlines()) == 1
    finally:
        path.write_bytes(before)


@given(value=json_values, data=st.data())
@on_a_folder
def test_any_value_in_a_config_is_refused_or_fits(
    value: object, data: st.DataObject, folder: Path
) -> None:
    plain = json.loads((folder / "config.json").read_text())
    name = data.draw(st.sampled_from(sorted(plain)))
    any_value(folder, "config.json", {}, plain | {name: value})


@given(value=json_values, data=st.data())
@on_a_folder
def test_any_value_in_a_tokenizer_is_refused_or_fits(
    value: object, data: st.DataObject, folder: Path
) -> None:
    plain = json.loads((folder / "tokenizer.json").read_text())
    inside = data.draw(st.sampled_from([plain, plain["model"], plain["model"]["vocab"]]))
    inside[data.draw(st.sampled_from(sorted(inside)))] = value
    any_value(folder, "tokenizer.json", {}, plain)


@given(value=json_values, data=st.data())
@on_a_folder
def test_any_value_in_a_header_is_refused_or_fits(
    value: object, data: st.DataObject, folder: Path
) -> None:
    field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", None]))
    entry: dict[str, Any] = {"dtype": "F32", "shape": [37, 32], "data_offsets": [0, 4736]}
    whole = value if field is None else entry | {field: value}
    name = data.draw(st.sampled_from([NAME, "cls.predictions.bias", "__metadata__", "x"]))
    any_value(folder, "model.safetensors", {name: whole}, None)
