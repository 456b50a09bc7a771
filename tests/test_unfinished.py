"""Preparations that go on where something that was finished is damaged: it is made again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bertsmith.durable import read_with_sum, write_with_sum
from bertsmith.errors import DataError
from bertsmith.preparation import prepare, prepare_store
from tests.support.stores import ACCIDENTS, config, content
from tests.support.texts import make_documents, write_text

FILES = {
    "a piece": "pieces/000000-000.json",
    "the list of what is dropped": "dropped/000000.npy",
    "digests of documents": "prints/000000.npy",
    "signatures": "prints/000000-signatures.npy",
    "the plan": "../plan.json",
    "the tokenizer": "../../tokenizer/tokenizer.json",
    "a shard": "../../train/000000-000.arrow",
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = make_documents(60)
    return write_text(tmp_path_factory.mktemp("text") / "text.txt", [*documents, *documents[:5]])


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "store"
    return content(prepare_store(config(text, deduplicate="near"), folder).path)


@pytest.fixture(scope="module")
def unfinished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of which all is done but the end."""
    folder = tmp_path_factory.mktemp("dead") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare._Preparation, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare_store(config(text, deduplicate="near"), folder)
    return folder


def another_count(path: Path) -> None:
    """One digit in the place of another: it is still what it was for a reader of JSON."""
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"words":', b'"words":1', 1))


@pytest.mark.parametrize("kind", ["missing", "empty", "cut off", "flipped", "a pipe"])
@pytest.mark.parametrize("name", FILES)
def test_what_is_damaged_is_made_again(
    name: str, kind: str, text: Path, whole: dict[str, bytes], unfinished: Path, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(unfinished, tmp_path / "store"))
    (work,) = (path for path in (store / ".work").iterdir() if path.is_dir())
    path = Path(os.path.normpath(work / FILES[name]))
    ACCIDENTS[kind](path)
    if (name, kind) == ("the plan", "flipped"):
        with pytest.raises(DataError, match="was begun with another text"):
            prepare_store(config(text, deduplicate="near"), store)
        return
    assert content(prepare_store(config(text, deduplicate="near"), store).path) == whole


def test_a_count_that_was_changed_is_counted_again(
    text: Path, whole: dict[str, bytes], unfinished: Path, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(unfinished, tmp_path / "store"))
    (piece,) = store.glob(".work/*/pieces/*.json")
    another_count(piece)
    assert content(prepare_store(config(text, deduplicate="near"), store).path) == whole


@pytest.mark.parametrize("kind", ACCIDENTS)
def test_a_file_with_its_digest_is_there_or_not(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    for text in (b"", b"text" * 99):
        write_with_sum(path, text)
        assert read_with_sum(path) == text
    change: Callable[[Path], None] = ACCIDENTS[kind]
    change(path)
    assert read_with_sum(path) is None
