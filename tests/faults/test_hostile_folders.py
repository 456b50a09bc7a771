"""Model folders and runs from strangers: a clear line, and nothing outside their folder."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertsmith.errors import BertsmithError
from bertsmith.saved.hugging_face import load_model

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
